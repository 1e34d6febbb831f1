//! `--feature-gates`, as far as a gate switches something here. All others stand as 1.37 has them by default.

use knarr_apiserver::http::Codecs;
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_core::go;

use super::flags::Flags;

/// Flags that are read here.
pub const FLAGS: &[&str] = &["feature-gates"];
/// Requests and answers in CBOR (KEP-4222). What custom resources lie in is the store's own business.
const CBOR: &str = "CBORServingAndStorage";
/// Sets all gates that are alpha, where they are not set themselves.
const ALL_ALPHA: &str = "AllAlpha";

/// The gates that are acted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    pub codecs: Codecs,
}

impl Gates {
    /// Reads the flag, and gives the names of gates that switch nothing here, too.
    ///
    /// # Errors
    /// A gate without a boolean (upstream: `featuregate.Set`).
    pub fn of(flags: &Flags) -> Result<(Self, Vec<String>)> {
        let (mut cbor, mut alpha, mut others) = (None, false, Vec::new());
        for setting in flags.list("feature-gates") {
            match named(setting)? {
                (CBOR, on) => cbor = Some(on),
                (ALL_ALPHA, on) => alpha = on,
                (other, _) => others.push(other.to_owned()),
            }
        }
        Ok((Self { codecs: Codecs { cbor: cbor.unwrap_or(alpha) } }, others))
    }
}

fn named(setting: &str) -> Result<(&str, bool)> {
    let refused = |why: String| Failure::new("USAGE", Exit::Usage, format!("--feature-gates: {why}"), "--feature-gates NAME=true,OTHER=false");
    let (name, value) = setting.split_once('=').ok_or_else(|| refused(format!("missing bool value for {setting}")))?;
    let on = go::boolean(value.trim()).ok_or_else(|| refused(format!("invalid value of {name}={}: neither true nor false", value.trim())))?;
    Ok((name.trim(), on))
}

#[cfg(test)]
mod tests {
    use super::super::flags::Known;
    use super::super::kube_apiserver;
    use super::*;

    fn read(value: &str) -> Result<(Gates, Vec<String>)> {
        Gates::of(&Known::new(kube_apiserver::FLAGS).parse(&[format!("--feature-gates={value}")]).unwrap())
    }

    #[test]
    fn what_is_set_by_its_own_name_counts() {
        for (value, cbor) in [
            ("CBORServingAndStorage=true", true),
            ("AllAlpha=true", true),
            ("AllAlpha=true,CBORServingAndStorage=false", false),
            ("AllBeta=true", false),
            ("", false),
        ] {
            assert_eq!(read(value).unwrap().0.codecs.cbor, cbor, "{value}");
        }
        assert_eq!(read("A=true, CBORServingAndStorage=t ,B=0").unwrap(), (Gates { codecs: Codecs { cbor: true } }, vec!["A".into(), "B".into()]));
    }

    #[test]
    fn a_gate_without_a_boolean_is_refused() {
        assert_eq!(read("A").unwrap_err().cause, "--feature-gates: missing bool value for A");
        assert_eq!(read("A=x").unwrap_err().cause, "--feature-gates: invalid value of A=x: neither true nor false");
    }
}
