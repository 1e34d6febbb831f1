//! Paths that definitions name fields by: `.spec.replicas`, `.metadata.labels['app']` (upstream: `ValidFieldPath`).

use knarr_core::field::Path;

use super::schema::{Additional, Schema};

/// What a path leads to.
pub struct Found<'s> {
    /// As errors name it.
    pub path: Path,
    /// None below what the schema does not tell about.
    pub schema: Option<&'s Schema>,
}

/// Follows a path through a schema.
///
/// # Errors
/// Why it is no path of this schema.
pub fn find<'s>(path: &str, schema: &'s Schema, array_notation: bool) -> Result<Found<'s>, String> {
    let mut found = Found { path: Path::root(), schema: Some(schema) };
    let mut tokens = tokens(path).into_iter();
    const CUT_OFF: &str = "unexpected end of JSON path";
    while let Some(token) = tokens.next() {
        match token {
            "[" if !array_notation => return Err("array notation is not allowed".into()),
            "[" => {
                let quoted = tokens.next().ok_or(CUT_OFF)?;
                let inner =
                    quoted.strip_prefix('\'').and_then(|q| q.strip_suffix('\'')).ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                let name = unescape(inner).map_err(|e| format!("invalid string literal: {e}"))?;
                found.step(&name)?;
                let end = tokens.next().ok_or(CUT_OFF)?;
                if end != "]" {
                    return Err(format!("expected ] but got {end}"));
                }
            }
            "." => found.step(tokens.next().ok_or(CUT_OFF)?)?,
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok(found)
}

impl Found<'_> {
    fn step(&mut self, name: &str) -> Result<(), String> {
        const NO_FIELD: &str = "does not refer to a valid field";
        let schema = self.schema.ok_or(NO_FIELD)?;
        if !schema.properties.is_empty() {
            self.path = self.path.child(name);
            self.schema = Some(schema.properties.get(name).ok_or(NO_FIELD)?);
            return Ok(());
        }
        self.path = self.path.key(name);
        self.schema = match &schema.additional {
            Additional::Unsaid => return Err(NO_FIELD.into()),
            Additional::Any(_) => None,
            Additional::Of(other) => Some(other),
        };
        Ok(())
    }
}

/// Delimiters, quoted strings with their quotes, and what stands between.
fn tokens(path: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        let length = if rest.starts_with('\'') {
            let closing = rest.match_indices('\'').skip(1).find(|(i, _)| !rest[..*i].ends_with('\\'));
            closing.map_or(rest.len(), |(i, _)| i + 1)
        } else {
            rest.find(['.', '[', ']']).map_or(rest.len(), |i| i.max(1))
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after;
    }
    tokens
}

fn unescape(text: &str) -> Result<String, String> {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some('\'') => '\'',
            Some('\\') | None => '\\',
            Some(other) => return Err(format!("invalid escape char \\{other}")),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn paths_are_followed_through_the_schema() {
        let schema = Schema::new(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"a": {"type": "string"}, "b.c": {"type": "object", "additionalProperties": {"type": "string"}}}},
            "open": {"type": "object", "additionalProperties": true},
        }}));
        let found = |path: &str| find(path, &schema, true).map(|f| f.path.to_string());
        assert_eq!(found(".spec.a").as_deref(), Ok("spec.a"));
        assert_eq!(found(".spec['b.c']['x y']").as_deref(), Ok("spec.b.c[x y]"));
        assert_eq!(found(".open.x").as_deref(), Ok("open[x]"));
        for (path, why) in [
            ("spec", "expected [ or . but got: spec"),
            (".spec.z", "does not refer to a valid field"),
            (".spec.a.b", "does not refer to a valid field"),
            (".spec[a]", "expected single quoted string but got a"),
            (".spec['a'", "unexpected end of JSON path"),
            (".spec['a'.", "expected ] but got ."),
            (".spec['\\q']", "invalid string literal: invalid escape char \\q"),
            (".", "unexpected end of JSON path"),
            (".open.x.y", "does not refer to a valid field"),
        ] {
            assert_eq!(found(path), Err(why.to_owned()), "{path}");
        }
        assert_eq!(find(".spec['a']", &schema, false).err().as_deref(), Some("array notation is not allowed"));
    }
}
