//! Regular expressions as Go reads them. Patterns in definitions, policies and rules are written for Go's package, whose
//! language is close to that of the `regex` crate and not the same: within brackets a `[` stands for itself, `\d`, `\w` and `\s`
//! are ASCII, `\Q…\E` quotes, `{` is often a plain character. A pattern is rewritten once, before it is compiled.

/// Most times that something may be repeated.
const REPEAT_MAX: u32 = 1000;

/// The pattern in the crate's language.
///
/// # Errors
/// Go's words for what it refuses and the crate might take. What both refuse is left to the crate.
pub fn from_go(pattern: &str) -> Result<String, String> {
    let mut translator = Translator { rest: pattern, out: String::with_capacity(pattern.len() + 8), repeated: None };
    while !translator.rest.is_empty() {
        translator.item()?;
    }
    Ok(translator.out)
}

struct Translator<'a> {
    rest: &'a str,
    out: String,
    /// Where the last item was an operator that repeats: the pattern from there on.
    repeated: Option<&'a str>,
}

impl<'a> Translator<'a> {
    fn item(&mut self) -> Result<(), String> {
        let at = self.rest;
        let repeated = self.repeated.take();
        let Some(first) = at.chars().next() else { return Ok(()) };
        match first {
            '*' | '+' | '?' => self.repeat(at, 1, repeated),
            '{' => match braces(at) {
                Some(Braces { length, greatest }) if greatest.is_none_or(|n| n <= REPEAT_MAX) => self.repeat(at, length, repeated),
                Some(Braces { length, .. }) => Err(format!("invalid repeat count: `{}`", &at[..length])),
                None => self.emit(1, "\\{"),
            },
            '[' => self.class(),
            '\\' => self.escape(false),
            '(' => self.group(),
            _ => self.copy(first.len_utf8()),
        }
    }

    fn emit(&mut self, length: usize, text: &str) -> Result<(), String> {
        self.rest = &self.rest[length..];
        self.out.push_str(text);
        Ok(())
    }

    fn copy(&mut self, length: usize) -> Result<(), String> {
        let text = &self.rest[..length];
        self.emit(length, text)
    }

    fn repeat(&mut self, at: &'a str, length: usize, repeated: Option<&'a str>) -> Result<(), String> {
        let lazy = usize::from(at[length..].starts_with('?'));
        if let Some(before) = repeated {
            let operators = &before[..before.len() - at.len() + length + lazy];
            return Err(format!("invalid nested repetition operator: `{operators}`"));
        }
        self.repeated = Some(at);
        self.copy(length + lazy)
    }

    /// The crate has flags that Go does not have.
    fn group(&mut self) -> Result<(), String> {
        let at = self.rest;
        let Some(flags) = at.strip_prefix("(?") else { return self.copy(1) };
        if flags.starts_with(['P', '<']) {
            return self.copy(2);
        }
        let length = flags.find(|c: char| !"imsU-".contains(c)).unwrap_or(flags.len());
        match flags[length..].chars().next() {
            Some(')' | ':') => self.copy(2 + length + 1),
            Some(other) => Err(format!("invalid or unsupported Perl syntax: `{}`", &at[..2 + length + other.len_utf8()])),
            None => Err(format!("missing closing ): `{at}`")),
        }
    }

    /// What follows a backslash. Within brackets there are no assertions.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let at = self.rest;
        let Some(escaped) = at[1..].chars().next() else { return Err("trailing backslash at end of expression: ``".to_owned()) };
        let length = 1 + escaped.len_utf8();
        match escaped {
            'Q' if !in_class => self.quoted(),
            'd' => self.emit(length, "[0-9]"),
            'D' => self.emit(length, "[^0-9]"),
            'w' => self.emit(length, "[0-9A-Za-z_]"),
            'W' => self.emit(length, "[^0-9A-Za-z_]"),
            's' => self.emit(length, "[\\t\\n\\f\\r ]"),
            'S' => self.emit(length, "[^\\t\\n\\f\\r ]"),
            'b' if !in_class => self.emit(length, "(?-u:\\b)"),
            'A' | 'z' | 'B' if !in_class => self.copy(length),
            'p' | 'P' => self.property(escaped),
            _ => {
                let (length, character) = character(at)?;
                self.emit(length, "")?;
                self.push_literal(character);
                Ok(())
            }
        }
    }

    /// `\p{^Name}` is Go's other way to say `\P{Name}`.
    fn property(&mut self, letter: char) -> Result<(), String> {
        let after = &self.rest[2..];
        let one = after.chars().next().map_or(0, char::len_utf8);
        let length = if after.starts_with('{') { after.find('}').map_or(after.len(), |i| i + 1) } else { one };
        let (letter, name) = match (after[..length].strip_prefix("{^"), letter) {
            (Some(name), 'p') => ('P', format!("{{{name}")),
            (Some(name), _) => ('p', format!("{{{name}")),
            (None, letter) => (letter, after[..length].to_owned()),
        };
        self.emit(2 + length, &format!("\\{letter}{name}"))
    }

    fn quoted(&mut self) -> Result<(), String> {
        let text = &self.rest[2..];
        let (literal, rest) = text.split_once("\\E").unwrap_or((text, ""));
        literal.chars().for_each(|c| self.push_literal(c));
        self.rest = rest;
        Ok(())
    }

    fn push_literal(&mut self, character: char) {
        if character.is_ascii() && !character.is_ascii_alphanumeric() {
            self.out.push_str(&format!("\\x{:02x}", u32::from(character)));
        } else {
            self.out.push(character);
        }
    }

    fn class(&mut self) -> Result<(), String> {
        let whole = self.rest;
        let missing = || format!("missing closing ]: `{whole}`");
        self.copy(1)?;
        if self.rest.starts_with('^') {
            self.copy(1)?;
        }
        let mut is_first = true;
        while is_first || !self.rest.starts_with(']') {
            is_first = false;
            match self.rest.chars().next() {
                None => return Err(missing()),
                Some('[') if self.rest.starts_with("[:") && self.rest.contains(":]") => {
                    let length = self.rest.find(":]").unwrap_or_default() + 2;
                    self.copy(length)?;
                }
                Some('\\') if self.rest[1..].starts_with(['d', 'D', 'w', 'W', 's', 'S', 'p', 'P']) => self.escape(true)?,
                Some(_) => self.range(&missing)?,
            }
        }
        self.copy(1)
    }

    /// A member of a class, or a range of them.
    fn range(&mut self, missing: &dyn Fn() -> String) -> Result<(), String> {
        let at = self.rest;
        let low = self.member()?;
        self.push_literal(low);
        if !self.rest.starts_with('-') || self.rest.starts_with("-]") {
            return Ok(());
        }
        self.rest = &self.rest[1..];
        if self.rest.is_empty() {
            return Err(missing());
        }
        let high = self.member()?;
        if high < low {
            return Err(format!("invalid character class range: `{}`", &at[..at.len() - self.rest.len()]));
        }
        self.out.push('-');
        self.push_literal(high);
        Ok(())
    }

    fn member(&mut self) -> Result<char, String> {
        let Some(first) = self.rest.chars().next() else { return Err("missing closing ]: ``".to_owned()) };
        let (length, member) = if first == '\\' { character(self.rest)? } else { (first.len_utf8(), first) };
        self.rest = &self.rest[length..];
        Ok(member)
    }
}

struct Braces {
    length: usize,
    greatest: Option<u32>,
}

/// `{n}`, `{n,}` and `{n,m}`; anything else in braces stands for itself.
fn braces(at: &str) -> Option<Braces> {
    let (inside, _) = at[1..].split_once('}')?;
    let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) && (n.len() == 1 || !n.starts_with('0'));
    let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
    if !is_number(least) || !(most.is_empty() || is_number(most)) {
        return None;
    }
    let count = |n: &str| n.parse().unwrap_or(u32::MAX);
    let most = if most.is_empty() { None } else { Some(count(most)) };
    Some(Braces { length: inside.len() + 2, greatest: Some(count(least)).max(most) })
}

/// An escape that stands for one character: its length and that character.
fn character(at: &str) -> Result<(usize, char), String> {
    let invalid = |length: usize| Err(format!("invalid escape sequence: `{}`", at.get(..length).unwrap_or(at)));
    let Some(escaped) = at[1..].chars().next() else { return Err("trailing backslash at end of expression: ``".to_owned()) };
    let length = 1 + escaped.len_utf8();
    let digits = |from: usize, most: usize, radix: u32| {
        let text = &at[from..];
        let end = text.char_indices().take(most).find(|(_, c)| !c.is_digit(radix)).map_or(text.len().min(most), |(i, _)| i);
        (from + end, u32::from_str_radix(&text[..end], radix).ok())
    };
    let coded = |end: usize, code: Option<u32>| match code.and_then(char::from_u32) {
        Some(character) => Ok((end, character)),
        None => invalid(end),
    };
    match escaped {
        'a' => Ok((length, '\x07')),
        'f' => Ok((length, '\x0c')),
        'n' => Ok((length, '\n')),
        'r' => Ok((length, '\r')),
        't' => Ok((length, '\t')),
        'v' => Ok((length, '\x0b')),
        'x' if at[length..].starts_with('{') => {
            let (end, code) = digits(length + 1, at.len(), 16);
            if at[end..].starts_with('}') { coded(end + 1, code) } else { invalid(end) }
        }
        'x' => {
            let (end, code) = digits(length, 2, 16);
            if end == length + 2 { coded(end, code) } else { invalid(end) }
        }
        '0' => {
            let (end, code) = digits(1, 3, 8);
            coded(end, code)
        }
        '1'..='7' if at[length..].starts_with(|c: char| c.is_digit(8)) => {
            let (end, code) = digits(1, 3, 8);
            coded(end, code)
        }
        other if other.is_ascii() && !other.is_ascii_alphanumeric() => Ok((length, other)),
        _ => invalid(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(pattern: &str, matched: &[&str], unmatched: &[&str]) {
        let compiled = regex::Regex::new(&from_go(pattern).unwrap()).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        matched.iter().for_each(|text| assert!(compiled.is_match(text), "{pattern} matches {text:?}"));
        unmatched.iter().for_each(|text| assert!(!compiled.is_match(text), "{pattern} does not match {text:?}"));
    }

    #[test]
    fn brackets_hold_characters_and_no_sets() {
        agree("^[^()<>@,;:\\\\\"\\/[\\]?={} \\t\\x7f\\x00\\x1f]+$", &["session-id", "a&&b~~c--d"], &["a[b", "a]", "a b", "a\x7f", "a/b", "{"]);
        agree("^[a-z&&[b]+$", &["a&[b"], &["]"]);
        agree("^[]a-]+$", &["a]-"], &["b"]);
        agree("^[+--]+$", &["+,-"], &["."]);
        agree("^[[:alpha:]\\d_.\\pN]+$", &["aZ_9.Ⅷ"], &["-", "["]);
        agree("^[\\p{Lu}\\P{^Nd}{]+$", &["A3{"], &["a"]);
        agree("^[\\p{Greek}x]$", &["x", "α"], &["G"]);
    }

    #[test]
    fn classes_are_of_ascii() {
        agree("^\\w+$", &["aZ_9"], &["é", "٣"]);
        agree("^\\d\\S\\s\\W$", &["1x é"], &["٣x é", "1x\u{a0}é"]);
        agree("\\bfoo\\b", &["éfoo", "a foo."], &["foo_"]);
    }

    #[test]
    fn braces_and_quotes_stand_for_themselves() {
        agree("^a{,2}{$", &["a{,2}{"], &["aa"]);
        agree("^a{2}b{1,}?$", &["aab"], &["ab"]);
        agree("^\\Qa.b{\\E+$", &["a.b{{"], &["axb{"]);
        agree("^\\<\\_\\%\\-\\101\\x{41}$", &["<_%-AA"], &[]);
        agree("^x{0123}$", &["x{0123}"], &["x"]);
        agree("(?i:AB)(?P<n>c)(?<m>d)(?s).", &["abcd\n"], &["abCd."]);
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        for (pattern, why) in [
            ("a**", "invalid nested repetition operator: `**`"),
            ("a+?{2}b", "invalid nested repetition operator: `+?{2}`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{2,1001}", "invalid repeat count: `{2,1001}`"),
            ("x[a", "missing closing ]: `[a`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("\\y", "invalid escape sequence: `\\y`"),
            ("\\u0041", "invalid escape sequence: `\\u`"),
            ("[\\Z]", "invalid escape sequence: `\\Z`"),
            ("\\", "trailing backslash at end of expression: ``"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
        ] {
            assert_eq!(from_go(pattern).unwrap_err(), why, "{pattern}");
        }
    }
}
