//! From text to tokens.

use crate::issue::Issue;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Ident(String),
    /// A field name in backquotes.
    Quoted(String),
    Int(String),
    Uint(String),
    Float(String),
    String(String),
    Bytes(Vec<u8>),
    /// Operators, brackets and keywords (`in`, `true`, `false`, `null`).
    Symbol(&'static str),
    End,
}

/// A token, where it starts, and its text as it was written.
#[derive(Clone, Debug)]
pub struct Lexeme {
    pub token: Token,
    pub at: usize,
    pub text: String,
}

const SYMBOLS: [&str; 27] =
    ["==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%", "<", ">", "in", "true", "false"];

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
    issues: Vec<Issue>,
}

/// All tokens, the end among them.
pub fn lex(source: &str) -> (Vec<Lexeme>, Vec<Issue>) {
    let chars: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0, issues: Vec::new() };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let at = lexer.at;
        if at >= chars.len() {
            tokens.push(Lexeme { token: Token::End, at, text: "<EOF>".into() });
            return (tokens, lexer.issues);
        }
        if let Some(token) = lexer.token() {
            tokens.push(Lexeme { token, at, text: chars[at..lexer.at].iter().collect() });
        }
    }
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn starts_with(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(i, c)| self.peek(i) == c)
    }

    fn skip_blank(&mut self) {
        loop {
            match self.peek(0) {
                ' ' | '\t' | '\r' | '\n' | '\u{c}' => self.at += 1,
                '/' if self.peek(1) == '/' => {
                    while self.at < self.chars.len() && self.peek(0) != '\n' {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn token(&mut self) -> Option<Token> {
        let c = self.peek(0);
        if let Some(token) = self.string() {
            return token;
        }
        if c == '`' {
            return self.quoted();
        }
        if c.is_ascii_alphabetic() || c == '_' {
            return Some(self.word());
        }
        if c.is_ascii_digit() || c == '.' && self.peek(1).is_ascii_digit() {
            return Some(self.number());
        }
        if let Some(symbol) = SYMBOLS.iter().take(24).find(|s| self.starts_with(s)) {
            self.at += symbol.len();
            return Some(Token::Symbol(symbol));
        }
        self.issues.push(Issue::new(self.at, format!("Syntax error: token recognition error at: '{c}'")));
        self.at += 1;
        None
    }

    fn word(&mut self) -> Token {
        let start = self.at;
        while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        match word.as_str() {
            "in" => Token::Symbol("in"),
            "true" => Token::Symbol("true"),
            "false" => Token::Symbol("false"),
            "null" => Token::Symbol("null"),
            _ => Token::Ident(word),
        }
    }

    fn quoted(&mut self) -> Option<Token> {
        let start = self.at + 1;
        let length = self.chars[start..].iter().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ')).count();
        if length == 0 || self.chars.get(start + length) != Some(&'`') {
            self.issues.push(Issue::new(self.at, "Syntax error: token recognition error at: '`'"));
            self.at += 1;
            return None;
        }
        self.at = start + length + 1;
        Some(Token::Quoted(self.chars[start..start + length].iter().collect()))
    }

    fn digits(&mut self, of: impl Fn(char) -> bool) {
        while of(self.peek(0)) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Token {
        let start = self.at;
        let text = |l: &Self| l.chars[start..l.at].iter().collect::<String>();
        if self.starts_with("0x") && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            self.digits(|c| c.is_ascii_hexdigit());
        } else {
            self.digits(|c| c.is_ascii_digit());
            let mut float = false;
            if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
                float = true;
                self.at += 1;
                self.digits(|c| c.is_ascii_digit());
            }
            let signed = usize::from(matches!(self.peek(1), '+' | '-'));
            if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + signed).is_ascii_digit() {
                float = true;
                self.at += 1 + signed;
                self.digits(|c| c.is_ascii_digit());
            }
            if float {
                return Token::Float(text(self));
            }
        }
        let number = text(self);
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return Token::Uint(number);
        }
        Token::Int(number)
    }

    /// A string or bytes literal, if one starts here. `Some(None)`: one that is broken.
    fn string(&mut self) -> Option<Option<Token>> {
        let (mut raw, mut bytes, mut ahead) = (false, false, 0);
        while ahead < 2 {
            match self.peek(ahead) {
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                _ => break,
            }
            ahead += 1;
        }
        let quote = self.peek(ahead);
        if !matches!(quote, '"' | '\'') {
            return None;
        }
        let start = self.at;
        self.at += ahead;
        let triple = self.peek(1) == quote && self.peek(2) == quote;
        let fence = if triple { 3 } else { 1 };
        self.at += fence;
        let from = self.at;
        loop {
            let c = self.peek(0);
            if self.at >= self.chars.len() || !triple && matches!(c, '\n' | '\r') {
                let text: String = self.chars[start..self.at].iter().collect();
                self.issues.push(Issue::new(start, format!("Syntax error: token recognition error at: '{}'", text.replace('\n', "\\n"))));
                return Some(None);
            }
            if c == '\\' && !raw {
                self.at = (self.at + 2).min(self.chars.len());
            } else if (0..fence).all(|i| self.peek(i) == quote) {
                break;
            } else {
                self.at += 1;
            }
        }
        let body: String = self.chars[from..self.at].iter().collect();
        self.at += fence;
        Some(match unescape(&body, raw, bytes) {
            Ok(found) if bytes => Some(Token::Bytes(found)),
            Ok(found) => Some(Token::String(String::from_utf8_lossy(&found).into_owned())),
            Err(why) => {
                self.issues.push(Issue::new(start, why));
                Some(if bytes { Token::Bytes(Vec::new()) } else { Token::String(String::new()) })
            }
        })
    }
}

fn unescape(body: &str, raw: bool, bytes: bool) -> Result<Vec<u8>, &'static str> {
    let body = body.replace("\r\n", "\n");
    if raw || !body.contains('\\') {
        return Ok(body.into_bytes());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut chars = body.chars();
    let push = |out: &mut Vec<u8>, c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(&mut out, c);
            continue;
        }
        let escape = chars.next().ok_or("unable to unescape string, found '\\' as last character")?;
        let plain = match escape {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => Some(escape),
            _ => None,
        };
        if let Some(plain) = plain {
            push(&mut out, plain);
            continue;
        }
        let mut number = |digits: usize, radix: u32, first: Option<char>| -> Result<u32, &'static str> {
            let mut value = 0u32;
            for c in first.into_iter().chain(chars.by_ref().take(digits - usize::from(first.is_some()))).map(Some).chain([None]).flatten() {
                value = value * radix + c.to_digit(radix).ok_or("unable to unescape string")?;
            }
            Ok(value)
        };
        let (value, is_byte) = match escape {
            'x' | 'X' => (number(2, 16, None)?, true),
            'u' => (number(4, 16, None)?, false),
            'U' => (number(8, 16, None)?, false),
            '0'..='3' => (number(3, 8, Some(escape))?, true),
            _ => return Err("unable to unescape string"),
        };
        if bytes && !is_byte {
            return Err("unable to unescape string");
        }
        if bytes {
            out.push(u8::try_from(value).map_err(|_| "unable to unescape string")?);
        } else {
            push(&mut out, char::from_u32(value).ok_or("unable to unescape string")?);
        }
    }
    Ok(out)
}
