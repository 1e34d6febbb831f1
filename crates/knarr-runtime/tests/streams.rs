//! Exec, attach, logs, port forwarding. Needs root.

mod world;

use std::time::Duration;

use knarr_runtime::Runtime;
use knarr_runtime::cri::{Error, Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use world::{World, log, until};

/// The client's ends of a stream.
struct Client {
    stdin: Option<DuplexStream>,
    stdout: DuplexStream,
    stderr: DuplexStream,
    resize: mpsc::Sender<(u16, u16)>,
}

fn streams(tty: bool) -> (Client, Streams) {
    let (stdin, their_stdin) = tokio::io::duplex(1024);
    let (stdout, their_stdout) = tokio::io::duplex(1024);
    let (stderr, their_stderr) = tokio::io::duplex(1024);
    let (resize, sizes) = mpsc::channel(4);
    let theirs = Streams {
        stdin: Some(Box::new(their_stdin)),
        stdout: Some(Box::new(their_stdout)),
        stderr: (!tty).then(|| Box::new(their_stderr) as _),
        tty,
        resize: tty.then_some(sizes),
    };
    (Client { stdin: Some(stdin), stdout, stderr, resize }, theirs)
}

async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
    let mut text = String::new();
    tokio::time::timeout(world::PATIENCE, async {
        while !text.ends_with(end) {
            let mut byte = [0];
            if stream.read(&mut byte).await.unwrap() == 0 {
                break;
            }
            text.push(char::from(byte[0]));
        }
    })
    .await
    .unwrap_or_else(|_| panic!("waited for {end:?}, got {text:?}"));
    text
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|s| (*s).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_sync_gives_output_and_code() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let mut config = world.shell("exec sleep 1000");
    config.security.run_as_user = Some(1000);
    config.security.supplemental_groups = vec![77];
    config.security.no_new_privileges = true;
    config.envs = vec![("WHO".into(), "me".into())];
    config.working_dir = "/data".into();
    let id = world.start(&pod, &config).await;
    let run = async |script: &str| world.runtime.exec_sync(&id, &words(&["sh", "-c", script]), world::PATIENCE).await;
    let output =
        run("id -u; id -g; id -G; echo $WHO $HOME; pwd; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'; echo err >&2; exit 3")
            .await
            .unwrap();
    let expected = "1000\n1001\n1001 29 77\nme /data\n/data\nCapEff:0000000000000000\nCapBnd:00000000a80425fb\nNoNewPrivs:1\nSeccomp:2\n";
    assert_eq!((String::from_utf8(output.stdout).unwrap().as_str(), output.stderr.as_slice(), output.exit_code), (expected, &b"err\n"[..], 3));

    let container = world.runtime.container_status(&id).await.unwrap().pid.unwrap();
    let cgroups = run("exec cat /proc/self/cgroup").await.unwrap().stdout;
    let theirs = std::fs::read_to_string(format!("/proc/{container}/cgroup")).unwrap();
    assert_eq!(String::from_utf8(cgroups).unwrap().lines().filter(|l| !l.ends_with(":/")).count(), 0, "in the container's cgroup: {theirs}");

    let error = world.runtime.exec_sync(&id, &words(&["nothing"]), world::PATIENCE).await.unwrap_err().to_string();
    assert_eq!(
        error,
        r#"failed to exec in container: OCI runtime exec failed: exec failed: unable to start container process: exec: "nothing": executable file not found in $PATH"#
    );
    let late = world.runtime.exec_sync(&id, &words(&["sleep", "999"]), Duration::from_millis(50)).await;
    assert!(matches!(late, Err(Error::Timeout(_))), "{late:?}");
    until(async || (!run("ps").await.unwrap().stdout.windows(9).any(|w| w == b"sleep 999")).then_some(())).await;

    // A child that keeps the pipe open holds nobody up.
    let output = run("sleep 500 & echo now").await.unwrap();
    assert_eq!(output.stdout, b"now\n");
    let output = run("yes | head -c 20000000").await.unwrap();
    assert_eq!(output.stdout.len(), 16 << 20, "more is not kept");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_streams_both_ways() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let id = world.start(&pod, &world.shell("exec sleep 1000")).await;
    let (mut client, theirs) = streams(false);
    let runtime = world.runtime.clone();
    let exec = {
        let id = id.clone();
        tokio::spawn(async move { runtime.exec(&id, &words(&["sh", "-c", "cat; echo done >&2; exit 9"]), theirs).await })
    };
    client.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
    assert_eq!(read_until(&mut client.stdout, "one\n").await, "one\n");
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"two\n").await.unwrap();
    drop(stdin);
    assert_eq!(read_until(&mut client.stdout, "\0").await, "two\n");
    assert_eq!(read_until(&mut client.stderr, "\0").await, "done\n");
    assert_eq!(exec.await.unwrap().unwrap(), 9);

    // A client that goes takes the process along.
    let (client, theirs) = streams(false);
    let runtime = world.runtime.clone();
    let exec = {
        let id = id.clone();
        tokio::spawn(async move { runtime.exec(&id, &words(&["sh", "-c", "sleep 777"]), theirs).await })
    };
    let processes = async || String::from_utf8(world.runtime.exec_sync(&id, &words(&["ps"]), world::PATIENCE).await.unwrap().stdout).unwrap();
    until(async || processes().await.contains("sleep 777").then_some(())).await;
    exec.abort();
    drop(client);
    until(async || (!processes().await.contains("sh -c sleep 777")).then_some(())).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_with_a_terminal_has_its_size() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let id = world.start(&pod, &world.shell("exec sleep 1000")).await;
    let (mut client, theirs) = streams(true);
    client.resize.send((100, 30)).await.unwrap();
    let runtime = world.runtime.clone();
    let exec =
        tokio::spawn(async move { runtime.exec(&id, &words(&["sh", "-c", "tty; echo $TERM; stty size; read x; stty size; read y; exit 4"]), theirs).await });
    assert_eq!(read_until(&mut client.stdout, "100\r\n").await, "/dev/pts/0\r\nxterm\r\n30 100\r\n");
    client.resize.send((80, 25)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let stdin = client.stdin.as_mut().unwrap();
    stdin.write_all(b"\n").await.unwrap();
    assert!(read_until(&mut client.stdout, "25 80\r\n").await.ends_with("25 80\r\n"));
    stdin.write_all(b"\n").await.unwrap();
    assert_eq!(exec.await.unwrap().unwrap(), 4);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_shows_what_comes_and_feeds_stdin() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let mut config = world.shell("echo before; while read line; do echo got $line; echo err $line >&2; done; echo over; exit 6");
    config.stdin = true;
    config.stdin_once = true;
    let id = world.start(&pod, &config).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    until(async || log(&path).contains("before").then_some(())).await;
    let attach = |theirs| {
        let (runtime, id) = (world.runtime.clone(), id.clone());
        tokio::spawn(async move { runtime.attach(&id, theirs).await })
    };
    let (mut watcher, mut theirs) = streams(false);
    theirs.stdin = None;
    let watching = attach(theirs);
    let (mut client, theirs) = streams(false);
    let attached = attach(theirs);
    tokio::time::sleep(Duration::from_millis(30)).await;
    client.stdin.as_mut().unwrap().write_all(b"a\n").await.unwrap();
    assert_eq!(read_until(&mut client.stdout, "\n").await, "got a\n");
    assert_eq!(read_until(&mut client.stderr, "\n").await, "err a\n");
    assert_eq!(read_until(&mut watcher.stdout, "\n").await, "got a\n");
    drop(client.stdin.take());
    assert_eq!(read_until(&mut client.stdout, "\0").await, "over\n");
    attached.await.unwrap().unwrap();
    watching.await.unwrap().unwrap();
    assert_eq!(world.ended(&id).await.exit_code, Some(6));
    let mut lines: Vec<String> = log(&path).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err a", "stdout F before", "stdout F got a", "stdout F over"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_to_a_terminal_works_both_ways() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let mut config = world.shell("[ -t 0 ] && tty; [ -c /dev/console ] && echo console; read x; echo got $x; stty size");
    (config.tty, config.stdin) = (true, true);
    let id = world.start(&pod, &config).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    until(async || log(&path).contains("console").then_some(())).await;
    let (mut client, theirs) = streams(true);
    let (runtime, attached) = (world.runtime.clone(), id.clone());
    let attached = tokio::spawn(async move { runtime.attach(&attached, theirs).await });
    client.resize.send((90, 20)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    client.stdin.as_mut().unwrap().write_all(b"word\n").await.unwrap();
    assert_eq!(read_until(&mut client.stdout, "20 90\r\n").await, "word\r\ngot word\r\n20 90\r\n");
    attached.await.unwrap().unwrap();
    assert_eq!(world.ended(&id).await.exit_code, Some(0));
    assert!(log(&path).starts_with("stdout F /dev/pts/0\nstdout F console"), "{:?}", log(&path));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_loses_nothing_and_a_gone_one_holds_nobody_up() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let mut config = world.shell("read go; seq 1 50000; echo end");
    config.stdin = true;
    let id = world.start(&pod, &config).await;
    let (mut client, theirs) = streams(false);
    let (gone, mut deaf) = streams(false);
    deaf.stdin = None;
    let attach = |theirs| {
        let (runtime, id) = (world.runtime.clone(), id.clone());
        tokio::spawn(async move { runtime.attach(&id, theirs).await })
    };
    let (slow, leaving) = (attach(theirs), attach(deaf));
    tokio::time::sleep(Duration::from_millis(30)).await;
    client.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    leaving.abort();
    drop(gone);
    let text = read_until(&mut client.stdout, "end\n").await;
    assert_eq!(text.lines().count(), 50001);
    slow.abort();
    let status = world.ended(&id).await;
    assert_eq!(log(&status.log_path).lines().count(), 50001);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_go_on_in_a_new_file_after_rotation() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let mut config = world.shell("while read line; do echo $line; done");
    config.stdin = true;
    let id = world.start(&pod, &config).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    let (mut client, theirs) = streams(false);
    let (runtime, attached) = (world.runtime.clone(), id.clone());
    let attached = tokio::spawn(async move { runtime.attach(&attached, theirs).await });
    let stdin = client.stdin.as_mut().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    until(async || log(&path).contains("one").then_some(())).await;
    let old = path.with_extension("old");
    std::fs::rename(&path, &old).unwrap();
    world.runtime.reopen_container_log(&id).await.unwrap();
    stdin.write_all(b"two\n").await.unwrap();
    until(async || log(&path).contains("two").then_some(())).await;
    assert_eq!((log(&old), log(&path)), ("stdout F one".into(), "stdout F two".into()));
    attached.abort();
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_the_pods_localhost_are_reached() {
    let world = World::new().await;
    let pod = world.sandbox("pod").await;
    let id = world.start(&pod, &world.shell("echo ready; while :; do echo hello | nc -l -p 8080 127.0.0.1; done")).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    until(async || log(&path).contains("ready").then_some(())).await;
    let mut stream = until(async || world.runtime.port_forward(&pod, 8080).await.ok()).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello\n");
    let refused = world.runtime.port_forward(&pod, 9).await.unwrap_err().to_string();
    assert!(refused.contains("Connection refused"), "{refused}");
    world.close().await;
}
