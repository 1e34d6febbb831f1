//! The shim's loop: questions of the agent in, answers and exits out, container output into logs.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use knarr_sys::cgroup::Hierarchies;
use knarr_sys::process::{self, SingleThreaded};

use super::child::{REPORT_BYTES_MAX, Report};
use super::container::{Asker, Container, Phase, Workshop};
use super::poll::{Poll, Ready};
use super::protocol::{Answer, Channel, ContainerState, Failure, Handles, Message, Question, Request};
use super::running::{Exec, Execs};
use super::sandbox::{self, Namespaces};
use super::spec::{Layout, SandboxSpec};
use super::stdio::{Attachment, Outcome, Stream};
use crate::image::store::read_json;

/// What the spawner gives a new shim.
pub struct Start<'a> {
    pub folder: PathBuf,
    pub adopt: bool,
    pub connection: OwnedFd,
    pub template: &'a OwnedFd,
    pub hierarchies: Hierarchies,
    pub proof: SingleThreaded,
}

/// What a descriptor is to the shim.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Listener,
    Connection(u64),
    Sync(String),
    Process(String),
    Output(String, usize),
    Attached(String, usize, u64),
    ExecSync(u64),
    ExecProcess(u64),
}

struct Connection {
    channel: Channel,
    token: u64,
}

pub(super) struct Server<'a> {
    folder: PathBuf,
    template: &'a OwnedFd,
    hierarchies: Hierarchies,
    proof: SingleThreaded,
    namespaces: Namespaces,
    pub(super) poll: Poll<Source>,
    connections: HashMap<u64, Connection>,
    pub(super) containers: BTreeMap<String, Container>,
    execs: Execs,
    /// Numbers for connections, attachments and execs.
    next: u64,
    stopping: bool,
}

/// Runs a shim until it is stopped.
pub fn serve(start: Start<'_>) -> io::Result<()> {
    process::reset_signals()?;
    process::ignore_broken_pipes()?;
    nix::unistd::setsid()?;
    // An agent that died may have had one made that the next agent did not see yet: two would share out the output between them.
    let _alone = knarr_sys::lock::take_from_holder(&Layout(&start.folder).lock())?;
    let mut first = Channel::new(start.connection)?;
    let spec: SandboxSpec = read_json(&Layout(&start.folder).spec())?;
    let namespaces = if start.adopt { adopted_namespaces(&start.folder, &spec) } else { sandbox::make(&start.folder, &spec, start.proof) };
    let namespaces = match namespaces {
        Ok(namespaces) => namespaces,
        Err(failure) => {
            first.push(&Message { number: 0, fds: 0, body: Answer::Failed(failure) }, Vec::new())?;
            return first.flush().map(drop);
        }
    };
    let mut server = Server {
        folder: start.folder,
        template: start.template,
        hierarchies: start.hierarchies,
        proof: start.proof,
        namespaces,
        poll: Poll::new()?,
        connections: HashMap::new(),
        containers: BTreeMap::new(),
        execs: Execs::default(),
        next: 1,
        stopping: false,
    };
    let listener = listen(&server.folder)?;
    server.poll.add(listener.as_fd(), Source::Listener)?;
    if start.adopt {
        server.adopt_containers();
    }
    server.welcome(first)?;
    server.run(&listener)
}

fn listen(folder: &std::path::Path) -> io::Result<UnixListener> {
    let path = Layout(folder).socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The folder is the agent's alone; a long path does not fit into a socket address, so the name is relative.
    std::env::set_current_dir(folder)?;
    let listener = UnixListener::bind(path.file_name().unwrap_or_default());
    std::env::set_current_dir("/")?;
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A process that still lives in the pod's namespaces shows the way into them.
fn adopted_namespaces(folder: &std::path::Path, spec: &SandboxSpec) -> Result<Namespaces, Failure> {
    let states = container_ids(folder).into_iter().filter_map(|id| read_json::<ContainerState>(&Layout(folder).container_state(&id)).ok());
    let alive = states.filter(|s| s.finished_at.is_none()).find(|s| process::start_time(s.pid) == Some(s.pid_start_time));
    sandbox::rejoin(folder, spec, alive.map(|s| s.pid))
}

fn container_ids(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(Layout(folder).containers()).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

impl<'a> Server<'a> {
    fn run(&mut self, listener: &UnixListener) -> io::Result<()> {
        loop {
            for (source, ready) in self.poll.wait()? {
                self.handle(listener, source, ready);
            }
            if self.stopping && self.containers.values().all(Container::is_over) && self.connections.is_empty() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, listener: &UnixListener, source: Source, ready: Ready) {
        let result = match source {
            Source::Listener => self.accept(listener),
            Source::Connection(number) => {
                if self.converse(number, ready).is_err() {
                    self.hang_up(number);
                }
                Ok(())
            }
            Source::Sync(id) => self.hear_child(&id),
            Source::Process(id) => self.bury(&id),
            Source::Output(id, index) => self.pump(&id, index),
            Source::Attached(id, index, number) => self.unblock(&id, index, number, ready),
            Source::ExecSync(number) => self.hear_exec(number),
            Source::ExecProcess(number) => self.bury_exec(number),
        };
        if let Err(error) = result {
            eprintln!("knarr shim: {}: {error}", self.folder.display());
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // --- connections ---

    fn accept(&mut self, listener: &UnixListener) -> io::Result<()> {
        match listener.accept() {
            Ok((stream, _)) => self.welcome(Channel::new(stream.into())?),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn welcome(&mut self, channel: Channel) -> io::Result<()> {
        let number = self.number();
        let token = self.poll.add(channel.socket(), Source::Connection(number))?;
        self.connections.insert(number, Connection { channel, token });
        let containers = self.containers.values().map(|c| c.state.clone()).collect();
        self.send(number, Message { number: 0, fds: 0, body: Answer::Ready { pid: std::process::id() as i32, containers } }, Vec::new());
        Ok(())
    }

    fn converse(&mut self, number: u64, ready: Ready) -> io::Result<()> {
        if ready.writable {
            self.flush(number)?;
        }
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
            match connection.channel.fill() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            while let Some((question, fds)) = self.connections.get_mut(&number).map(|c| c.channel.next::<Question>()).transpose()?.flatten() {
                let asker = Asker { connection: number, number: question.number };
                match self.answer(asker, question.body, fds) {
                    Ok(Some(answer)) => self.reply(asker, answer, Vec::new()),
                    Ok(None) => {}
                    Err(failure) => self.reply(asker, Answer::Failed(failure), Vec::new()),
                }
            }
        }
    }

    pub(super) fn reply(&mut self, asker: Asker, body: Answer, fds: Vec<OwnedFd>) {
        self.send(asker.connection, Message { number: asker.number, fds: fds.len(), body }, fds);
    }

    /// Somebody who has stopped reading is cut off; a new agent asks again.
    fn send(&mut self, number: u64, message: Message, fds: Vec<OwnedFd>) {
        let pushed = self.connections.get_mut(&number).map_or(Ok(()), |c| c.channel.push(&message, fds));
        if pushed.and_then(|()| self.flush(number)).is_err() {
            self.hang_up(number);
        }
    }

    fn flush(&mut self, number: u64) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        let all = connection.channel.flush()?;
        self.poll.change(connection.channel.socket(), connection.token, true, !all)
    }

    fn hang_up(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            self.poll.remove(connection.channel.socket(), connection.token);
        }
        // Nobody waits for these any more.
        for exec in self.execs.of_connection(number) {
            exec.kill();
        }
    }

    fn broadcast(&mut self, body: impl Fn() -> Answer) {
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            self.send(number, Message { number: 0, fds: 0, body: body() }, Vec::new());
        }
    }

    // --- questions ---

    /// `None`: the answer comes later.
    fn answer(&mut self, asker: Asker, request: Request, fds: Vec<OwnedFd>) -> Result<Option<Answer>, Failure> {
        match request {
            Request::Create { id } => self.create(asker, &id).map(|()| None),
            Request::Start { id } => self.start(asker, &id),
            Request::Signal { id, signal, all } => self.signal(&id, signal, all).map(Some),
            Request::Remove { id } => self.remove(&id).map(Some),
            Request::Exec { id, exec, .. } => self.exec(asker, &id, exec, fds).map(|()| None),
            Request::KillExec { exec } => {
                self.execs.get(exec).inspect(|exec| exec.kill());
                Ok(Some(Answer::Done))
            }
            Request::Attach { id } => self.attach(&id, fds).map(Some),
            Request::CloseStdin { id } => {
                self.container(&id)?.stdin = None;
                Ok(Some(Answer::Done))
            }
            Request::ReopenLog { id } => self.container(&id)?.log.reopen().map_err(Failure::other("reopening the log")).map(|()| Some(Answer::Done)),
            Request::Inspect { id } => self.inspect(asker, &id).map(|()| None),
            Request::Adopt { id, has } => self.adopt_stdio(&id, has, fds).map(Some),
            Request::Stop => self.stop().map(Some),
        }
    }

    pub(super) fn container(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.get_mut(id).ok_or_else(|| Failure::NotFound(format!("container {id:?}")))
    }

    pub(super) fn workshop(&self) -> Workshop<'_> {
        Workshop { folder: &self.folder, hierarchies: &self.hierarchies, namespaces: &self.namespaces, template: self.template, proof: self.proof }
    }

    fn create(&mut self, asker: Asker, id: &str) -> Result<(), Failure> {
        let mut container = self.workshop().make(id)?;
        container.asker = Some(asker);
        self.watch(id, &mut container).map_err(Failure::other("watching the container"))?;
        self.containers.insert(id.to_owned(), container);
        Ok(())
    }

    fn watch(&mut self, id: &str, container: &mut Container) -> io::Result<()> {
        if container.phase != Phase::Exited {
            container.pidfd_token = self.poll.add(container.pidfd.as_fd(), Source::Process(id.to_owned()))?;
        }
        if let Some((sync, token)) = &mut container.sync {
            *token = self.poll.add(sync.as_fd(), Source::Sync(id.to_owned()))?;
        }
        for (index, stream) in container.streams.iter_mut().enumerate() {
            if let Some(stream) = stream {
                stream.token = self.poll.add(stream.pipe.as_fd(), Source::Output(id.to_owned(), index))?;
            }
        }
        Ok(())
    }

    /// The child has told how its set-up went, or its end of the socket is closed: then the program runs, or the child is dead.
    fn hear_child(&mut self, id: &str) -> io::Result<()> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let Some((sync, _)) = &container.sync else { return Ok(()) };
        let (report, mut fds) = receive_report(sync)?;
        match (report, container.phase) {
            (Some(report), Phase::SettingUp) => {
                container.warnings = report.warnings;
                if let Some(master) = fds.pop() {
                    let mut stream = Stream::new(master.try_clone()?, "stdout")?;
                    stream.token = self.poll.add(stream.pipe.as_fd(), Source::Output(id.to_owned(), 0))?;
                    container.streams[0] = Some(stream);
                    container.stdin = Some(master);
                }
                self.finish_create(id, report.result)
            }
            (None, phase) => {
                if let Some((sync, token)) = container.sync.take() {
                    self.poll.remove(sync.as_fd(), token);
                }
                match phase {
                    Phase::SettingUp => self.finish_create(id, Err(Failure::Other("the process died while it was being set up".to_owned()))),
                    Phase::Starting => self.finish_start(id),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn finish_create(&mut self, id: &str, result: Result<super::spec::Identity, Failure>) -> io::Result<()> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let asker = container.asker.take();
        match result {
            Ok(identity) => container.state.identity = identity,
            Err(Failure::Config(text)) => {
                self.discard(id);
                asker.into_iter().for_each(|asker| self.reply(asker, Answer::Failed(Failure::Config(text.clone())), Vec::new()));
                return Ok(());
            }
            // What is wrong with the program or the machine shows when the container is to be started, as with containerd.
            Err(failure) => container.state.start_error = Some(failure.text().to_owned()),
        }
        container.phase = Phase::Created;
        container.save(&self.folder);
        match asker {
            Some(asker) => self.tell_about(asker, id),
            None => Ok(()),
        }
    }

    fn tell_about(&mut self, asker: Asker, id: &str) -> io::Result<()> {
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        let (handles, fds) = container.handles()?;
        let answer = Answer::Container { state: Box::new(container.state.clone()), handles, warnings: container.warnings.clone() };
        self.reply(asker, answer, fds);
        Ok(())
    }

    fn start(&mut self, asker: Asker, id: &str) -> Result<Option<Answer>, Failure> {
        let container = self.container(id)?;
        if let Some(text) = container.state.start_error.clone() {
            self.bury_stillborn(id);
            return Err(Failure::Program(text));
        }
        if container.phase != Phase::Created {
            return Err(Failure::Other(format!("container {id} is in state {:?}", container.phase)));
        }
        container.asker = Some(asker);
        container.go().map_err(Failure::other("starting"))?;
        Ok(None)
    }

    fn finish_start(&mut self, id: &str) -> io::Result<()> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        container.mark_started();
        container.save(&self.folder);
        match container.asker.take() {
            Some(asker) => self.tell_about(asker, id),
            None => Ok(()),
        }
    }

    fn signal(&mut self, id: &str, signal: i32, all: bool) -> Result<Answer, Failure> {
        let container = self.container(id)?;
        if container.phase == Phase::Exited {
            return Ok(Answer::Done);
        }
        let sent = if all && signal == libc::SIGKILL { container.cgroup.kill() } else { process::send_signal(container.pidfd.as_fd(), signal) };
        sent.map(|()| Answer::Done).map_err(Failure::other("sending the signal"))
    }

    fn remove(&mut self, id: &str) -> Result<Answer, Failure> {
        self.container(id)?;
        self.discard(id);
        Ok(Answer::Done)
    }

    /// Forgets a container, whatever state it is in.
    fn discard(&mut self, id: &str) {
        let Some(mut container) = self.containers.remove(id) else { return };
        if container.phase != Phase::Exited {
            container.end();
        }
        self.poll.remove(container.pidfd.as_fd(), container.pidfd_token);
        if let Some((sync, token)) = container.sync.take() {
            self.poll.remove(sync.as_fd(), token);
        }
        for stream in container.streams.iter_mut().filter_map(Option::take) {
            self.close_stream(stream);
        }
    }

    fn inspect(&mut self, asker: Asker, id: &str) -> Result<(), Failure> {
        self.container(id)?;
        self.tell_about(asker, id).map_err(Failure::other("descriptors"))
    }

    fn stop(&mut self) -> Result<Answer, Failure> {
        self.stopping = true;
        for container in self.containers.values().filter(|c| c.phase != Phase::Exited) {
            container.cgroup.kill().and_then(|()| process::send_signal(container.pidfd.as_fd(), libc::SIGKILL)).map_err(Failure::other("killing"))?;
        }
        if let Some((_, init)) = &self.namespaces.init {
            process::send_signal(init.as_fd(), libc::SIGKILL).map_err(Failure::other("killing"))?;
        }
        Ok(Answer::Done)
    }

    // --- ends ---

    fn bury(&mut self, id: &str) -> io::Result<()> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let Some(exit) = container.poll_exit() else { return Ok(()) };
        self.poll.remove(container.pidfd.as_fd(), container.pidfd_token);
        if container.phase == Phase::SettingUp {
            // Its report, or the end of it, tells more.
            return Ok(());
        }
        if container.phase == Phase::Starting {
            self.finish_start(id)?;
        }
        if self.containers.get(id).is_some_and(|c| c.phase == Phase::Created) {
            // It was ended before it was started, or could not be set up: whoever starts it will hear.
            return Ok(());
        }
        self.note_exit(id, exit)
    }

    /// A start that failed is an exit too.
    fn bury_stillborn(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.phase == Phase::Exited {
            return;
        }
        self.poll.remove(container.pidfd.as_fd(), container.pidfd_token);
        container.end();
        if let Err(error) = self.note_exit(id, process::Exit::Code(super::container::START_ERROR)) {
            eprintln!("knarr shim: {error}");
        }
    }

    fn note_exit(&mut self, id: &str, exit: process::Exit) -> io::Result<()> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        container.mark_exited(exit);
        container.stdin = None;
        // What it wrote last is in the log before anybody hears of its end.
        for index in 0..2 {
            self.pump(id, index)?;
        }
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        container.save(&self.folder);
        let state = container.state.clone();
        self.broadcast(|| Answer::Exited { state: Box::new(state.clone()) });
        Ok(())
    }

    // --- output ---

    fn pump(&mut self, id: &str, index: usize) -> io::Result<()> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let Some(stream) = &mut container.streams[index] else { return Ok(()) };
        let mut gone = Vec::new();
        let outcome = stream.pump(&mut container.log, &mut gone);
        for attachment in gone {
            self.poll.remove(attachment.pipe.as_fd(), attachment.token);
        }
        match outcome {
            Outcome::Drained => {}
            Outcome::Blocked => self.pause(id, index)?,
            Outcome::Ended => {
                if let Some(stream) = self.containers.get_mut(id).and_then(|c| c.streams[index].take()) {
                    self.close_stream(stream);
                }
            }
        }
        Ok(())
    }

    /// Stops reading a stream until its slow readers have caught up.
    fn pause(&mut self, id: &str, index: usize) -> io::Result<()> {
        let Some(stream) = self.containers.get_mut(id).and_then(|c| c.streams[index].as_mut()) else { return Ok(()) };
        self.poll.remove(stream.pipe.as_fd(), std::mem::take(&mut stream.token));
        for attachment in stream.attached.iter().filter(|a| a.is_blocked()) {
            self.poll.change(attachment.pipe.as_fd(), attachment.token, false, true)?;
        }
        Ok(())
    }

    /// A slow reader takes more, or has gone.
    fn unblock(&mut self, id: &str, index: usize, number: u64, ready: Ready) -> io::Result<()> {
        let Some(stream) = self.containers.get_mut(id).and_then(|c| c.streams[index].as_mut()) else { return Ok(()) };
        let Some(at) = stream.attached.iter().position(|a| a.number == number) else { return Ok(()) };
        let failed = stream.attached[at].flush().is_err();
        if failed || (ready.broken && !ready.writable) {
            let gone = stream.attached.remove(at);
            self.poll.remove(gone.pipe.as_fd(), gone.token);
        } else if !stream.attached[at].is_blocked() {
            let attachment = &stream.attached[at];
            self.poll.change(attachment.pipe.as_fd(), attachment.token, false, false)?;
        }
        if stream.token == 0 && !stream.is_blocked() {
            stream.token = self.poll.add(stream.pipe.as_fd(), Source::Output(id.to_owned(), index))?;
            return self.pump(id, index);
        }
        Ok(())
    }

    fn close_stream(&mut self, stream: Stream) {
        self.poll.remove(stream.pipe.as_fd(), stream.token);
        for attachment in &stream.attached {
            self.poll.remove(attachment.pipe.as_fd(), attachment.token);
        }
    }

    fn attach(&mut self, id: &str, fds: Vec<OwnedFd>) -> Result<Answer, Failure> {
        let phase = self.container(id)?.phase;
        if phase == Phase::Exited {
            return Err(Failure::Other(format!("container {id} is not running")));
        }
        for (index, pipe) in fds.into_iter().take(2).enumerate() {
            let number = self.number();
            let token = self.poll.add_for_end(pipe.as_fd(), Source::Attached(id.to_owned(), index, number)).map_err(Failure::other("attaching"))?;
            let attachment = Attachment::new(number, pipe, token).map_err(Failure::other("attaching"))?;
            match self.container(id)?.streams[index].as_mut() {
                Some(stream) => stream.attached.push(attachment),
                None => self.poll.remove(attachment.pipe.as_fd(), token),
            }
        }
        Ok(Answer::Done)
    }

    // --- adoption ---

    /// Takes up what a dead shim has left.
    fn adopt_containers(&mut self) {
        for id in container_ids(&self.folder) {
            let adopted = self.workshop().adopt(&id).and_then(|mut container| {
                self.watch(&id, &mut container)?;
                self.containers.insert(id.clone(), container);
                Ok(())
            });
            if let Err(error) = adopted {
                eprintln!("knarr shim: container {id} cannot be taken up: {error}");
            }
        }
    }

    fn adopt_stdio(&mut self, id: &str, has: Handles, fds: Vec<OwnedFd>) -> Result<Answer, Failure> {
        let failed = || Failure::other("taking up stdio");
        let mut fds = fds.into_iter();
        if has.pidfd {
            drop(fds.next());
        }
        for (index, (wanted, name)) in [(has.stdout, "stdout"), (has.stderr, "stderr")].into_iter().enumerate() {
            let Some(pipe) = fds.next_if_wanted(wanted) else { continue };
            if self.container(id)?.streams[index].is_some() {
                continue;
            }
            let mut stream = Stream::new(pipe, name).map_err(failed())?;
            stream.token = self.poll.add(stream.pipe.as_fd(), Source::Output(id.to_owned(), index)).map_err(failed())?;
            self.container(id)?.streams[index] = Some(stream);
        }
        if let Some(stdin) = fds.next_if_wanted(has.stdin) {
            self.container(id)?.stdin = Some(stdin);
        }
        Ok(Answer::Done)
    }

    // --- exec ---

    fn exec(&mut self, asker: Asker, id: &str, exec: super::protocol::ExecSpec, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let number = self.number();
        let folder = self.folder.clone();
        let container = self.containers.get(id).ok_or_else(|| Failure::NotFound(format!("container {id:?}")))?;
        let mut made = Exec::make(&self.namespaces, self.proof, &folder, container, &exec, fds, asker)?;
        let failed = || Failure::other("watching the process");
        made.sync_token = self.poll.add(made.sync.as_fd(), Source::ExecSync(number)).map_err(failed())?;
        made.pidfd_token = self.poll.add(made.pidfd.as_fd(), Source::ExecProcess(number)).map_err(failed())?;
        self.execs.insert(number, made);
        Ok(())
    }

    fn hear_exec(&mut self, number: u64) -> io::Result<()> {
        let Some(exec) = self.execs.get_mut(number) else { return Ok(()) };
        let (report, fds) = receive_report(&exec.sync)?;
        self.poll.remove(exec.sync.as_fd(), std::mem::take(&mut exec.sync_token));
        let asker = exec.asker;
        match report {
            Some(Report { result: Ok(_), .. }) => {
                exec.running = true;
                let pid = exec.pid;
                self.reply(asker, Answer::ExecStarted { exec: number, pid }, fds);
            }
            Some(Report { result: Err(failure), .. }) => self.reply(asker, Answer::Failed(failure), Vec::new()),
            None => self.reply(asker, Answer::Failed(Failure::Other("the process died while it was being set up".to_owned())), Vec::new()),
        }
        Ok(())
    }

    fn bury_exec(&mut self, number: u64) -> io::Result<()> {
        let Some(exec) = self.execs.get_mut(number) else { return Ok(()) };
        let Some(exit) = process::try_wait(exec.pidfd.as_fd())? else { return Ok(()) };
        if exec.sync_token != 0 {
            // It may have reported and ended before we looked.
            self.hear_exec(number)?;
        }
        let Some(exec) = self.execs.remove(number) else { return Ok(()) };
        self.poll.remove(exec.pidfd.as_fd(), exec.pidfd_token);
        if exec.running {
            let body = Answer::ExecExited { exec: number, exit_code: exit.code() };
            self.send(exec.asker.connection, Message { number: 0, fds: 0, body }, Vec::new());
        }
        Ok(())
    }
}

trait NextIfWanted {
    fn next_if_wanted(&mut self, wanted: bool) -> Option<OwnedFd>;
}

impl<I: Iterator<Item = OwnedFd>> NextIfWanted for I {
    fn next_if_wanted(&mut self, wanted: bool) -> Option<OwnedFd> {
        if wanted { self.next() } else { None }
    }
}

/// A child's report; `None` when its end is closed.
fn receive_report(sync: &OwnedFd) -> io::Result<(Option<Report>, Vec<OwnedFd>)> {
    let (mut buffer, mut fds) = (vec![0; REPORT_BYTES_MAX], Vec::new());
    let n = knarr_sys::fdpass::receive(sync.as_fd(), &mut buffer, &mut fds)?;
    if n == 0 {
        return Ok((None, fds));
    }
    Ok((Some(serde_json::from_slice(&buffer[..n])?), fds))
}
