//! As much of TOML as `hosts.toml` uses: sections, strings, booleans, lists of strings, comments.

/// Keys with their values, in the order of the file; a key carries its sections before it.
#[derive(Debug, Default)]
pub struct Toml(Vec<(Vec<String>, Value)>);

#[derive(Debug, PartialEq)]
enum Value {
    Section,
    Text(String),
    Boolean(bool),
    List(Vec<String>),
}

impl Toml {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        let mut section = Vec::new();
        let mut lines = text.lines().map(|line| without_comment(line).trim().to_owned()).enumerate();
        while let Some((number, mut line)) = lines.next() {
            let wrong = |what: &str| format!("line {}: {what}", number + 1);
            if line.is_empty() {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                let name = name.strip_suffix(']').ok_or_else(|| wrong("section is not closed"))?;
                section = path(name).ok_or_else(|| wrong("invalid section name"))?;
                found.0.push((section.clone(), Value::Section));
                continue;
            }
            // A list may go on over lines.
            while line.contains("= [") && !line.ends_with(']') {
                let (_, more) = lines.next().ok_or_else(|| wrong("list is not closed"))?;
                line.push_str(&more);
            }
            let (key, value) = line.split_once('=').ok_or_else(|| wrong("neither section nor key"))?;
            let key = path(key.trim()).ok_or_else(|| wrong("invalid key"))?;
            let value = value_of(value.trim()).ok_or_else(|| wrong("value is neither string, boolean nor list of strings"))?;
            found.0.push((section.iter().cloned().chain(key).collect(), value));
        }
        Ok(found)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let key = path(key)?;
        self.0.iter().find(|(k, v)| *k == key && *v != Value::Section).map(|(_, v)| v)
    }

    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn boolean(&self, key: &str) -> bool {
        self.get(key) == Some(&Value::Boolean(true))
    }

    /// A list, or one string as a list of one.
    pub fn strings(&self, key: &str) -> Vec<String> {
        match self.get(key) {
            Some(Value::Text(text)) => vec![text.clone()],
            Some(Value::List(list)) => list.clone(),
            _ => Vec::new(),
        }
    }

    /// Names of the sections right below one.
    pub fn sections<'a>(&'a self, parent: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |(key, value)| match &key[..] {
            [first, name] if first == parent && *value == Value::Section => Some(name.as_str()),
            _ => None,
        })
    }

    /// Keys and strings of a section.
    pub fn table(&self, section: &str) -> Vec<(String, String)> {
        let Some(section) = path(section) else { return Vec::new() };
        let inside = self.0.iter().filter(|(key, _)| key.len() == section.len() + 1 && key.starts_with(&section));
        inside
            .filter_map(|(key, value)| match (key.last(), value) {
                (Some(name), Value::Text(text)) => Some((name.clone(), text.clone())),
                _ => None,
            })
            .collect()
    }
}

fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, letter) in line.char_indices() {
        match letter {
            '"' | '\'' => quoted = !quoted,
            '#' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}

/// `host."https://a.b".header` has three parts.
fn path(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = match rest.chars().next()? {
            quote @ ('"' | '\'') => {
                let (part, after) = rest[1..].split_once(quote)?;
                (part, after.trim_start())
            }
            _ => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        parts.push(part.trim().to_owned());
        match after.strip_prefix('.') {
            Some(more) => rest = more.trim_start(),
            None => return after.is_empty().then_some(parts),
        }
    }
}

fn value_of(text: &str) -> Option<Value> {
    match text {
        "true" => Some(Value::Boolean(true)),
        "false" => Some(Value::Boolean(false)),
        _ if text.starts_with('[') => {
            let inside = text.strip_prefix('[')?.strip_suffix(']')?;
            let items = inside.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(unquoted).collect::<Option<Vec<_>>>().map(Value::List)
        }
        _ => unquoted(text).map(Value::Text),
    }
}

fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inside = text.strip_prefix(quote)?.strip_suffix(quote)?;
    (!inside.contains(quote)).then(|| inside.replace("\\\\", "\\"))
}
