//! Bearer tokens out of a file (`--token-auth-file`): a line each, `token,user,uid,"group1,group2"`
//! (upstream: `plugin/pkg/auth/authenticator/token/tokenfile`).

use std::collections::HashMap;

use async_trait::async_trait;
use knarr_core::Result;

use super::{Authenticator, User};

/// The users of a file by token.
pub struct TokenFile(HashMap<String, User>);

impl TokenFile {
    /// Reads the text of a file. The last line of a token counts.
    ///
    /// # Errors
    /// A line with less than token, user and uid.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut users = HashMap::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let columns = columns(line);
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(format!("token file must have at least 3 columns (token, user name, user uid), found {}", columns.len()));
            };
            let groups = rest.first().map(|g| g.split(',').map(|g| g.trim().to_owned()).filter(|g| !g.is_empty()).collect()).unwrap_or_default();
            if !token.is_empty() {
                users.insert(token.clone(), User { name: name.clone(), uid: uid.clone(), groups, ..User::default() });
            }
        }
        Ok(Self(users))
    }
}

/// The columns of a line of comma-separated values; a quoted one may hold commas.
fn columns(line: &str) -> Vec<String> {
    let (mut all, mut current, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut current).trim().to_owned()),
            c => current.push(c),
        }
    }
    all.push(current.trim().to_owned());
    all
}

#[async_trait]
impl Authenticator for TokenFile {
    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        Ok(self.0.get(token).map(|user| (user.clone(), audiences.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_of_the_file_is_its_user() {
        let file = TokenFile::parse("abc,admin,7,\"system:masters, others\"\n\n# none\nxyz,plain,8\n").unwrap();
        let (user, _) = file.review_token("abc", &[]).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str(), user.groups), ("admin", "7", vec!["system:masters".to_owned(), "others".to_owned()]));
        assert_eq!(file.review_token("xyz", &[]).await.unwrap().unwrap().0.groups, Vec::<String>::new());
        assert!(file.review_token("other", &[]).await.unwrap().is_none());
        assert!(TokenFile::parse("abc,admin").is_err());
    }
}
