//! Why a verb failed, and how that is told: `checkErr` and `StandardErrorMessage` of kubectl's `cmd/util/helpers.go`.

use std::collections::BTreeSet;
use std::fmt;

use knarr_core::{Reason, Status};

/// Why a verb failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// What the server said.
    Server(Status),
    /// Anything else, after `error: `.
    Other(String),
    /// Told as it stands.
    Plain(String),
    /// The command line is wrong: with a pointer to the help of this verb.
    Usage { path: String, message: String },
    /// Several things at once.
    Many(Vec<Failure>),
    /// Everything has been said; the exit code is left.
    Exit(u8),
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// One failure out of several; none when there are none.
    pub fn all(failures: Vec<Self>) -> Result<()> {
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.into_iter().next().unwrap_or(Self::Exit(1))),
            _ => Err(Self::Many(failures)),
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Server(status) if status.is_not_found())
    }

    /// Exit code of the program.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            _ => 1,
        }
    }

    /// The text without what `error: ` or the server's reason add.
    pub fn message(&self) -> String {
        match self {
            Self::Server(status) => status.message.clone(),
            Self::Other(text) | Self::Plain(text) => text.clone(),
            Self::Usage { message, .. } => message.clone(),
            Self::Many(all) => format!("[{}]", all.iter().map(Self::message).collect::<Vec<_>>().join(", ")),
            Self::Exit(_) => String::new(),
        }
    }

    /// Says what was being done, and with what (`AddSourceToErr`).
    #[must_use]
    pub fn when(self, doing: &str, source: &str) -> Self {
        if source.is_empty() {
            return self;
        }
        let text = |message: &str| format!("error when {doing} {}: {message}", knarr_core::field::go_quote(source));
        match self {
            Self::Server(mut status) => {
                status.message = text(&status.message);
                Self::Server(status)
            }
            other => Self::Other(text(&other.message())),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Server(status)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::Other(text.to_owned())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // Whoever reads our output has gone: nothing is left to be told to him.
        if error.kind() == std::io::ErrorKind::BrokenPipe { Self::Exit(1) } else { Self::Other(go_io(&error)) }
    }
}

/// An error of the operating system as Go words it.
pub fn go_io(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

fn reason_text(reason: Reason) -> String {
    serde_json::to_value(reason).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn invalid(status: &Status) -> String {
    let mut text = "The request is invalid".to_owned();
    let Some(details) = &status.details else {
        if !status.message.is_empty() {
            text += &format!(": {}", status.message);
        }
        return text;
    };
    if !details.kind.is_empty() || !details.name.is_empty() {
        text = format!("The {} {} is invalid", details.kind, knarr_core::field::go_quote(&details.name));
    } else if !status.message.is_empty() && details.causes.is_empty() {
        text += &format!(": {}", status.message);
    }
    let mut seen = BTreeSet::new();
    let causes: Vec<String> = details.causes.iter().map(|c| format!("{}: {}", c.field, c.message)).filter(|c| seen.insert(c.clone())).collect();
    match causes.as_slice() {
        [] => text,
        [one] => format!("{text}: {one}"),
        several => format!("{text}: \n{}", several.iter().map(|c| format!("* {c}\n")).collect::<String>()).trim_end().to_owned(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(s) if s.reason == Reason::Invalid => f.write_str(&invalid(s)),
            Self::Server(s) if s.reason == Reason::Unauthorized => write!(f, "error: You must be logged in to the server ({})", s.message),
            Self::Server(s) if s.reason == Reason::Unknown => write!(f, "Error from server: {}", s.message),
            Self::Server(s) => write!(f, "Error from server ({}): {}", reason_text(s.reason), s.message),
            Self::Other(text) if text.starts_with("error: ") => f.write_str(text),
            Self::Other(text) => write!(f, "error: {text}"),
            Self::Plain(text) => f.write_str(text),
            Self::Usage { path, message } => write!(f, "error: {message}\nSee '{path} -h' for help and examples"),
            Self::Many(all) => {
                let mut seen = BTreeSet::new();
                let texts: Vec<String> = all.iter().map(ToString::to_string).filter(|t| seen.insert(t.clone())).collect();
                f.write_str(&texts.join("\n"))
            }
            Self::Exit(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::status::{Cause, Details};

    #[test]
    fn failures_are_told_as_kubectl_tells_them() {
        let status = |code, reason, message: &str| Failure::from(Status::new(code, reason, message));
        assert_eq!(status(404, Reason::NotFound, "pods \"x\" not found").to_string(), "Error from server (NotFound): pods \"x\" not found");
        assert_eq!(status(401, Reason::Unauthorized, "Unauthorized").to_string(), "error: You must be logged in to the server (Unauthorized)");
        let cause = |field: &str, message: &str| Cause { reason: String::new(), message: message.into(), field: field.into() };
        let invalid = |causes| {
            Failure::from(Status::new(422, Reason::Invalid, "m").with_details(Details { name: "x".into(), kind: "Pod".into(), causes, ..Details::default() }))
        };
        assert_eq!(invalid(vec![cause("spec.a", "Required value")]).to_string(), "The Pod \"x\" is invalid: spec.a: Required value");
        assert_eq!(invalid(vec![cause("a", "1"), cause("b", "2"), cause("b", "2")]).to_string(), "The Pod \"x\" is invalid: \n* a: 1\n* b: 2");
        assert_eq!(Failure::from("no").when("creating", "f.yaml").to_string(), "error: error when creating \"f.yaml\": no");
    }
}
