//! Static files for `kubectl proxy --www`, as Go's `http.FileServer` serves them: an `index.html` stands for its folder, other folders
//! are listed, and a path always stays below the folder.

use std::io;
use std::path::Path;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;

use super::proxy::{cleaned, decoded};

/// What is looked at to guess what a file is.
const SNIFF_BYTES: usize = 512;

type Answer = Response<Full<Bytes>>;

/// Answers a request for `path` below `folder`; `asked` is the path with its prefix.
pub(super) fn answer(folder: &Path, asked: &str, path: &str, method: &Method) -> Answer {
    if asked.ends_with("/index.html") {
        return moved("./");
    }
    // Links are followed as Go follows them; what leads upwards ends at the folder.
    let path = cleaned(&decoded(path));
    match read(folder, asked, &path) {
        Ok(mut answer) => {
            if method == Method::HEAD {
                *answer.body_mut() = Full::default();
            }
            answer
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => text(StatusCode::NOT_FOUND, "404 page not found"),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, "403 Forbidden"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
    }
}

fn read(folder: &Path, asked: &str, path: &str) -> io::Result<Answer> {
    let file = folder.join(path.trim_start_matches('/'));
    let about = std::fs::metadata(&file)?;
    let name = asked.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match (about.is_dir(), asked.ends_with('/')) {
        (true, false) => return Ok(moved(&format!("{name}/"))),
        (false, true) => return Ok(moved(&format!("../{name}"))),
        (true, true) => {
            let index = file.join("index.html");
            return if index.is_file() { whole(&index) } else { listing(&file) };
        }
        (false, false) => {}
    }
    whole(&file)
}

fn whole(file: &Path) -> io::Result<Answer> {
    let bytes = std::fs::read(file)?;
    let kind = kind(file, &bytes);
    let mut answer = Response::new(Full::new(bytes.into()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(changed) = std::fs::metadata(file)?.modified()
        && let Ok(at) = jiff::Timestamp::try_from(changed)
        && let Ok(value) = HeaderValue::from_str(&at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
    {
        answer.headers_mut().insert(header::LAST_MODIFIED, value);
    }
    Ok(answer)
}

fn listing(folder: &Path) -> io::Result<Answer> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let line = |name: &String| format!("<a href=\"{}\">{}</a>\n", link(name), escaped(name));
    let page =
        format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{}</pre>\n", names.iter().map(line).collect::<String>());
    let mut answer = Response::new(Full::new(page.into()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(answer)
}

/// A name as part of a URL (`url.URL.String`): a colon in it must not look like a scheme.
fn link(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
    let coded: String = name.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect();
    if coded.split('/').next().is_some_and(|first| first.contains(':')) { format!("./{coded}") } else { coded }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

fn kind(file: &Path, bytes: &[u8]) -> &'static str {
    match file.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
        Some("htm" | "html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("txt") => "text/plain; charset=utf-8",
        Some("xml") => "text/xml; charset=utf-8",
        Some("json") => "application/json",
        Some("wasm") => "application/wasm",
        Some("pdf") => "application/pdf",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("gif") => "image/gif",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        _ if is_text(&bytes[..bytes.len().min(SNIFF_BYTES)]) => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// No byte that text does not have (`http.DetectContentType`).
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| !matches!(b, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f))
}

fn moved(to: &str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    HeaderValue::from_str(to).into_iter().for_each(|to| drop(answer.headers_mut().insert(header::LOCATION, to)));
    answer
}

fn text(code: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn folders_are_listed_files_are_served_and_nothing_above() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir_all(folder.path().join("www/sub")).unwrap();
        std::fs::create_dir_all(folder.path().join("www/site")).unwrap();
        write("secret", "x");
        write("www/a & b.txt", "hello");
        write("www/site/index.html", "<p>");
        write("www/raw", "\u{1}");
        let www = folder.path().join("www");
        let ask = async |path: &str| {
            let answer = answer(&www, &format!("/static/{path}"), path, &Method::GET);
            let header = |name| answer.headers().get(name).map(|v: &HeaderValue| v.to_str().unwrap().to_owned()).unwrap_or_default();
            let (code, to, kind) = (answer.status().as_u16(), header(header::LOCATION), header(header::CONTENT_TYPE));
            (code, to + &kind, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
        };
        let list = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n<a href=\"a%20&%20b.txt\">a &amp; b.txt</a>\n<a href=\"raw\">raw</a>\n<a href=\"site/\">site/</a>\n<a href=\"sub/\">sub/</a>\n</pre>\n";
        assert_eq!(ask("").await, (200, "text/html; charset=utf-8".into(), list.into()));
        assert_eq!(ask("a%20&%20b.txt").await, (200, "text/plain; charset=utf-8".into(), "hello".into()));
        assert_eq!(ask("site/").await, (200, "text/html; charset=utf-8".into(), "<p>".into()));
        assert_eq!(ask("site").await, (301, "site/".into(), String::new()));
        assert_eq!(ask("raw/").await.0, 404);
        assert_eq!(ask("raw").await.1, "application/octet-stream");
        assert_eq!(ask("site/index.html").await, (301, "./".into(), String::new()));
        assert_eq!((ask("none").await.0, ask("%2e%2e/secret").await.0), (404, 404));
        assert_eq!(link("a:b"), "./a:b");
    }
}
