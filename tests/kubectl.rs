//! The built-in kubectl against the stock one: both run every line of `kubectl/cases.txt` on one cluster, and what they print and
//! how they exit must be equal, once names, times and numbers that differ from call to call are taken out.

mod cluster;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use cluster::{Cluster, root, wait_for};
use regex::{Captures, Regex};

/// How many lines are run at the same time.
const THREADS: usize = 2;

/// One line of the table.
struct Case {
    line: String,
    /// It changes something, so it runs alone, each program with a name of its own.
    writes: bool,
    /// Its lines come in no particular order.
    unordered: bool,
}

impl Case {
    fn read(line: &str) -> Self {
        let text = line.trim_start_matches(['!', '~']);
        let marks = line.strip_suffix(text).unwrap_or_default();
        Self { line: text.to_owned(), writes: marks.contains('!'), unordered: marks.contains('~') }
    }

    fn args(&self, own_name: &str, fixtures: &Path) -> Vec<String> {
        let name = |word: String| if self.writes { word.replacen("NAME", own_name, 1) } else { word };
        words(&self.line)
            .into_iter()
            .map(|w| {
                name(w).replace("FIXTURES", &fixtures.display().to_string()).replace("KUSTOMIZE", &fixtures.with_file_name("kustomize").display().to_string())
            })
            .collect()
    }
}

/// Splits at spaces outside of brackets and single quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut begun) = (Vec::new(), String::new(), false);
    let (mut depth, mut quoted) = (0, false);
    for c in line.chars() {
        match c {
            '\'' if depth == 0 => {
                quoted = !quoted;
                begun = true;
                continue;
            }
            '{' | '[' | '(' if !quoted => depth += 1,
            '}' | ']' | ')' if !quoted => depth -= 1,
            ' ' if !quoted && depth <= 0 => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

/// What differs from call to call, and what stands for it.
static VOLATILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
        (r"(?m)^[EWI]\d{4} .*memcache.*\n", ""),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
        (r#"(resourceVersion"?: )"?\d+"?"#, "${1}RV"),
        (r"nm-[ab]\b", "nm"),
        (r"pod-template-hash=\w+", "pod-template-hash=HASH"),
    ]
    .into_iter()
    .map(|(pattern, with)| (Regex::new(pattern).expect("a pattern"), with))
    .collect()
});
static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(\d+y)?(\d+d)?(\d+h)?(\d+m)?\d+s\b|\b\d+m(?:$|(  ))").expect("a pattern"));
static SPACES: LazyLock<Regex> = LazyLock::new(|| Regex::new(" +").expect("a pattern"));

fn normal(text: &[u8], unordered: bool) -> String {
    let mut text = String::from_utf8_lossy(text).into_owned();
    for (pattern, with) in VOLATILE.iter() {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    // An age may be one letter longer in the other's answer, and move the columns.
    let line = |line: &str| match AGE.replace_all(line, |c: &Captures| format!("AGE{}", c.get(5).map_or("", |m| m.as_str()))) {
        std::borrow::Cow::Borrowed(same) => same.to_owned(),
        std::borrow::Cow::Owned(changed) => SPACES.replace_all(&changed, " ").into_owned(),
    };
    let mut lines: Vec<String> = text.split('\n').map(line).collect();
    if unordered {
        lines.sort();
    }
    lines.join("\n")
}

struct Programs {
    stock: PathBuf,
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
    fixtures: PathBuf,
}

impl Programs {
    fn answer(&self, case: &Case, mut command: Command, own_name: &str) -> String {
        command.args(case.args(own_name, &self.fixtures)).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.home.path()).env("NO_PROXY", "*");
        let output = command.current_dir(self.home.path()).stdin(Stdio::null()).output().expect("the program runs");
        let text = |bytes| normal(bytes, case.unordered);
        format!("{}\n--- stderr\n{}\n--- exit {:?}", text(&output.stdout), text(&output.stderr), output.status.code())
    }

    /// Both answers where they are not the same.
    fn difference(&self, case: &Case) -> Option<String> {
        let stock = self.answer(case, Command::new(&self.stock), "nm-a");
        let mut ours = Command::new(env!("CARGO_BIN_EXE_knarr"));
        ours.arg("kubectl");
        let ours = self.answer(case, ours, "nm-b");
        if stock == ours {
            return None;
        }
        let only = |of: &str, other: &str, mark: char| {
            of.lines().filter(|l| !other.lines().any(|o| o == *l)).take(6).fold(String::new(), |all, l| format!("{all}  {mark} {l}\n"))
        };
        Some(format!("{}\n{}{}", case.line, only(&stock, &ours, '-'), only(&ours, &stock, '+')))
    }
}

impl Programs {
    fn ours(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.arg("kubectl");
        command
    }

    fn prepared(&self, mut command: Command) -> Command {
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.home.path()).env("NO_PROXY", "*").current_dir(self.home.path());
        command
    }
}

/// A proxy that runs until it is dropped.
struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    fn start(mut command: Command, args: &[&str]) -> Self {
        let mut child = command.arg("proxy").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("Starting to serve on ").unwrap_or_else(|| panic!("said {line:?}")).to_owned();
        Self { child, address }
    }

    /// Code, the headers that matter, and the body of an answer.
    fn ask(&self, request: &str) -> String {
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let text = format!("{}\r\nConnection: close\r\n\r\n{body}", head.replace('\n', "\r\n"));
        let answer = if self.address.starts_with('/') {
            exchange(UnixStream::connect(&self.address), &text)
        } else {
            exchange(TcpStream::connect(&self.address), &text)
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let mut lines = head.lines();
        let code = lines.next().and_then(|l| l.split(' ').nth(1)).unwrap_or_default().to_owned();
        let lines: Vec<String> = lines.map(str::to_lowercase).collect();
        let mut kept: Vec<&String> =
            lines.iter().filter(|l| ["content-type:", "location:", "x-content-type-options:"].iter().any(|h| l.starts_with(h))).collect();
        kept.sort();
        let body = if lines.iter().any(|l| l == "transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
        format!("{code} {kept:?} {}", normal(body.as_bytes(), false))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("its end");
    }
}

fn exchange(stream: std::io::Result<impl Read + Write>, request: &str) -> String {
    let mut stream = stream.expect("a connection");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn unchunked(body: &str) -> String {
    let (mut rest, mut out) = (body, String::new());
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        if size == 0 {
            break;
        }
        out += &more[..size];
        rest = &more[size + 2..];
    }
    out
}

/// The built-in proxy answers as the stock one does, whatever it was told to serve.
fn proxies(programs: &Programs) {
    let folder = programs.home.path().join("www");
    std::fs::create_dir_all(folder.join("sub")).expect("a folder");
    std::fs::write(folder.join("a & b.txt"), "text\n").expect("a file");
    std::fs::write(folder.join("page.html"), "<p>").expect("a file");
    let www = format!("--www={}", folder.display());
    let (stock_socket, own_socket) = (programs.home.path().join("stock.sock"), programs.home.path().join("own.sock"));
    let of = |socket: &Path| format!("--unix-socket={}", socket.display());
    let pod = "/api/v1/namespaces/diff/pods/lonely";
    let everywhere = [
        "GET /version HTTP/1.1\nHost: localhost".to_owned(),
        "GET / HTTP/1.1\nHost: 127.0.0.1:8001\nAccept: application/json".to_owned(),
        "GET /custom/api/v1/namespaces/diff/configmaps/settings HTTP/1.1\nHost: localhost".to_owned(),
        "GET /custom HTTP/1.1\nHost: localhost".to_owned(),
        "GET /api/v1/namespaces/diff/configmaps/settings?pretty=true HTTP/1.1\nHost: localhost:1".to_owned(),
        "GET /api/v1/namespaces/diff/configmaps/none HTTP/1.1\nHost: localhost".to_owned(),
        "GET /nowhere HTTP/1.1\nHost: localhost".to_owned(),
        "GET /version HTTP/1.1\nHost: evil.example".to_owned(),
        format!("POST {pod}/exec?command=a HTTP/1.1\nHost: localhost\nContent-Length: 0"),
        format!("GET {pod}/portforward?ports=1 HTTP/1.1\nHost: localhost"),
        "POST /api/v1/namespaces/diff/configmaps?dryRun=All HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 2\n\n{}".to_owned(),
        "GET /static/ HTTP/1.1\nHost: evil.example".to_owned(),
        "GET /static/sub HTTP/1.1\nHost: localhost".to_owned(),
        "GET /static/page.html HTTP/1.1\nHost: localhost".to_owned(),
        "GET /static/a%20&%20b.txt HTTP/1.1\nHost: localhost".to_owned(),
        "GET /static/none HTTP/1.1\nHost: localhost".to_owned(),
        "GET /static/%2e%2e/kubeconfig HTTP/1.1\nHost: localhost".to_owned(),
    ];
    let ways: [(&[&str], &[&str]); 4] = [
        (&["--port=0", &www], &["--port=0", &www]),
        (&["--port=0", "--api-prefix=/custom"], &["--port=0", "--api-prefix=/custom"]),
        (
            &["--port=0", "--accept-hosts=.*", "--reject-methods=POST", "--accept-paths=^/version"],
            &["--port=0", "--accept-hosts=.*", "--reject-methods=POST", "--accept-paths=^/version"],
        ),
        (&[&of(&stock_socket), "--disable-filter"], &[&of(&own_socket), "--disable-filter"]),
    ];
    let mut differences = Vec::new();
    for (stock_args, own_args) in ways {
        let stock = Proxy::start(programs.prepared(Command::new(&programs.stock)), stock_args);
        let ours = Proxy::start(programs.prepared(programs.ours()), own_args);
        for request in &everywhere {
            let (stock, ours) = (stock.ask(request), ours.ask(request));
            if stock != ours {
                differences.push(format!("{own_args:?}: {request}\n- {stock}\n+ {ours}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Debug containers run: beside a pod's own, in a copy of it, and on a node.
fn debugs(cluster: &Cluster, programs: &Programs) {
    cluster.load_example();
    cluster.kubectl(&["run", "debugged", "--image=knarr.local/hello:1", "-l", "debugged=true"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/debugged", "--timeout=60s"]);
    let debug = |args: &[&str]| {
        let output = programs.prepared(programs.ours()).arg("debug").args(args).stdin(Stdio::null()).output().expect("it runs");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {said}");
        said
    };
    // It shares the pod's network, so that its port is taken already.
    let said = debug(&["debugged", "-q", "--image=knarr.local/hello:1", "-c", "beside", "--target=debugged", "--attach"]);
    assert!(said.contains("AddrInUse"), "{said}");
    debug(&["debugged", "--image=knarr.local/hello:1", "--copy-to=copied", "-c", "other", "--env=PORT=8081"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/copied", "--timeout=60s"]);
    assert_eq!(cluster.kubectl(&["get", "pod", "copied", "-o", "jsonpath={.spec.shareProcessNamespace} {.metadata.labels}"]).trim(), "true");
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    debug(&[&format!("node/{node}"), "--image=knarr.local/hello:1", "--env=PORT=0"]);
    let managed = ["-l", "app.kubernetes.io/managed-by=kubectl-debug"];
    cluster.kubectl(&[&["wait", "--for=condition=Ready", "pod", "--timeout=60s"], &managed[..]].concat());
    let spec = "jsonpath={.items[0].spec.hostPID} {.items[0].spec.nodeName} {.items[0].spec.containers[0].volumeMounts[0].mountPath}";
    assert_eq!(cluster.kubectl(&[&["get", "pods", "-o", spec], &managed[..]].concat()), format!("true {node} /host"));
    cluster.kubectl(&[&["delete", "pod", "--wait", "--grace-period=0", "--force"], &managed[..]].concat());
    cluster.kubectl(&["delete", "pod", "--wait", "--grace-period=0", "--force", "debugged", "copied"]);
}

/// Objects that are nested as deep as JSON may be go through both programs and the server, whose threads have the stack for them.
fn deep(programs: &Programs) {
    const LEVELS: usize = 9_990;
    let file = programs.home.path().join("deep.json");
    let data = format!("{}1{}", "[".repeat(LEVELS), "]".repeat(LEVELS));
    let revision = |revision: usize| {
        format!(r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"deep"}},"revision":{revision},"data":{{"deep":{data}}}}}"#)
    };
    for (number, ours) in [(1, false), (2, true)] {
        std::fs::write(&file, revision(number)).expect("a file");
        let run = |args: &[&str]| {
            let program = if ours { programs.ours() } else { Command::new(&programs.stock) };
            let output = programs.prepared(program).args(args).stdin(Stdio::null()).output().expect("it runs");
            assert!(output.status.success(), "ours: {ours}, {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        run(&["apply", "--server-side", "--force-conflicts", "-f", &file.display().to_string()]);
        let shown: String = run(&["get", "controllerrevision", "deep", "-o", "json"]).split_whitespace().collect();
        assert!(shown.contains(&data), "ours: {ours}, {} bytes", shown.len());
        assert!(run(&["get", "controllerrevisions", "-o", "name"]).contains("controllerrevision.apps/deep\n"));
    }
}

#[test]
fn the_built_in_kubectl_answers_as_the_stock_one_does() {
    let cluster = Cluster::start("kubectl", 1);
    let folder = root().join("tests/kubectl").canonicalize().expect("the folder");
    let programs = Programs {
        stock: std::env::var_os("KNARR_KUBECTL").expect("KNARR_KUBECTL names a stock kubectl").into(),
        kubeconfig: cluster.kubeconfig(),
        home: tempfile::tempdir().expect("a folder"),
        fixtures: folder.join("fixtures.yaml"),
    };
    cluster.kubectl(&["apply", "-f", &programs.fixtures.display().to_string()]);
    cluster.kubectl(&["config", "set-context", "--current", "--namespace=diff"]);
    wait_for("events of the pods", || cluster.kubectl(&["get", "events"]).contains("FailedScheduling"));
    proxies(&programs);
    debugs(&cluster, &programs);
    deep(&programs);
    cluster.kubectl(&["delete", "controllerrevision", "deep"]);
    let table = std::fs::read_to_string(folder.join("cases.txt")).expect("the table");
    let (writes, reads): (Vec<_>, Vec<_>) = table.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).map(Case::read).partition(|c| c.writes);
    let (programs, total) = (&programs, writes.len() + reads.len());
    let mut differences: Vec<String> = std::thread::scope(|scope| {
        let reads = &reads;
        let part = move |part: usize| reads.iter().skip(part).step_by(THREADS).filter_map(|c| programs.difference(c)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..THREADS).map(|p| scope.spawn(move || part(p))).collect();
        threads.into_iter().flat_map(|t| t.join().expect("a thread")).collect()
    });
    differences.extend(writes.iter().filter_map(|c| programs.difference(c)));
    eprintln!("{} of {total} lines differ\n{}", differences.len(), differences.join("\n"));
    assert!(differences.is_empty(), "{} of {total} lines differ", differences.len());
}
