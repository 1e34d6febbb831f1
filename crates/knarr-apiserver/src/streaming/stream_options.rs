//! What the query of a stream may say (upstream: `ValidatePodLogOptions` and the conversion of `PodPortForwardOptions`).

use knarr_core::field::{Error, ErrorList, Path, go_quote};
use knarr_core::{GroupVersionKind, Result, Status};

use crate::request::{Query, RequestInfo};

/// Looks at the options of a request for a log or for ports of a pod.
///
/// # Errors
/// `Invalid` for numbers out of range, `BadRequest` for ports that are none.
pub fn check(info: &RequestInfo, raw_query: &str) -> Result<()> {
    let query = Query::parse(raw_query);
    match info.subresource.as_str() {
        "log" => {
            let errors = log(&query);
            if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&GroupVersionKind::new("", "v1", "PodLogOptions"), &info.name, &errors)) }
        }
        "portforward" => match query.all("ports").flat_map(|list| list.split(',')).find(|port| port.parse::<u32>().is_err()) {
            Some(port) => Err(Status::bad_request(format!("cannot convert to []int32: strconv.ParseUint: parsing {}: invalid syntax", go_quote(port)))),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn log(query: &Query) -> ErrorList {
    let mut errors = ErrorList::new();
    let number = |name: &str| query.get(name).and_then(|v| v.parse::<i64>().ok());
    if let Some(lines) = number("tailLines").filter(|n| *n < 0) {
        errors.push(Error::invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0"));
    }
    if let Some(bytes) = number("limitBytes").filter(|n| *n < 1) {
        errors.push(Error::invalid(&Path::new("limitBytes"), bytes, "must be greater than 0"));
    }
    match (number("sinceSeconds"), query.get("sinceTime").filter(|t| !t.is_empty())) {
        (Some(_), Some(_)) => errors.push(Error::forbidden(&Path::root(), "at most one of `sinceTime` or `sinceSeconds` may be specified")),
        (Some(seconds), None) if seconds < 1 => errors.push(Error::invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0")),
        _ => {}
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(query: &str) -> Vec<String> {
        log(&Query::parse(query)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn numbers_of_a_log_are_in_range() {
        assert!(texts("tailLines=0&limitBytes=1&sinceSeconds=1").is_empty());
        assert_eq!(
            texts("tailLines=-1&limitBytes=0"),
            ["tailLines: Invalid value: -1: must be greater than or equal to 0", "limitBytes: Invalid value: 0: must be greater than 0"]
        );
    }

    #[test]
    fn ports_are_numbers() {
        let info = RequestInfo { subresource: "portforward".into(), ..RequestInfo::default() };
        assert!(check(&info, "ports=80,443").is_ok());
        assert_eq!(check(&info, "ports=x").unwrap_err().message, "cannot convert to []int32: strconv.ParseUint: parsing \"x\": invalid syntax");
    }
}
