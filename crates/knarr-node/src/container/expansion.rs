//! `$(VAR)` in commands, arguments, environment values and `subPathExpr` (upstream: `third_party/forked/golang/expansion`).

/// Replaces each `$(NAME)` by what `lookup` gives; a name that it does not know stays as written. `$$` is a dollar sign.
pub fn expand(text: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn references_are_replaced_as_upstream_replaces_them() {
        for (given, wanted) in [
            ("$(A)", "a"),
            ("x$(A)y$(B)", "xayb"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$(C)", "$(C)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$()", "$()"),
            ("$($(A))", "$($(A))"),
        ] {
            let lookup = |name: &str| [("A", "a"), ("B", "b")].iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            assert_eq!(expand(given, lookup), wanted, "{given}");
        }
    }
}
