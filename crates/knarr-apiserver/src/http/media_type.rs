//! The syntax of a `Content-Type`, as strict as Go reads it (`mime.ParseMediaType`): what it cannot read names no media type at all.

/// The media type without its parameters, in lower case; `None` when header or parameters are malformed.
pub fn parse(header: &str) -> Option<String> {
    let (essence, parameters) = header.split_at(header.find(';').unwrap_or(header.len()));
    let essence = essence.trim().to_ascii_lowercase();
    is_type(&essence).then_some(())?;
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut rest = parameters.trim_start();
    while !rest.is_empty() && rest.trim() != ";" {
        let (name, value, after) = parameter(rest)?;
        if seen.iter().any(|(n, v)| *n == name && *v != value) {
            return None;
        }
        seen.push((name, value));
        rest = after.trim_start();
    }
    Some(essence)
}

/// `type/subtype`, or the type alone.
fn is_type(text: &str) -> bool {
    let (kind, rest) = token(text);
    match rest.strip_prefix('/').map(token) {
        _ if kind.is_empty() => false,
        None => rest.is_empty(),
        Some((subtype, rest)) => !subtype.is_empty() && rest.is_empty(),
    }
}

/// `; name=value`, and what comes after it.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let (name, rest) = token(text.strip_prefix(';')?.trim_start());
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    if name.is_empty() {
        return None;
    }
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => self::quoted(quoted)?,
        None => Some(token(rest)).filter(|(value, _)| !value.is_empty()).map(|(value, rest)| (value.to_owned(), rest))?,
    };
    Some((name.to_ascii_lowercase(), value, rest))
}

/// The value before the closing quote, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return Some((value, &text[at + 1..])),
            '\\' if !escaped => escaped = true,
            '\r' | '\n' => return None,
            c => {
                value.push(c);
                escaped = false;
            }
        }
    }
    None
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_graphic() && !r#"()<>@,;:\"/[]?="#.contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_taken_and_refused_as_go_does() {
        for (header, wanted) in [
            ("application/json", Some("application/json")),
            (" Application/JSON ; charset=utf-8", Some("application/json")),
            ("application/json;", Some("application/json")),
            ("application/json; a=\"b;\\\"c\"; d=e", Some("application/json")),
            ("application", Some("application")),
            ("*/*", Some("*/*")),
            ("application/json;;", None),
            ("application/json; charset", None),
            ("application/json; a=b; a=c", None),
            ("application/json/more", None),
            ("application/", None),
            ("application/json; a=\"b", None),
            ("", None),
        ] {
            assert_eq!(parse(header).as_deref(), wanted, "{header}");
        }
    }
}
