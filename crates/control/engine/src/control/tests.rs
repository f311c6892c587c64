//! The hub with real sockets: workers that obey, and peers that do everything else.

use std::time::{Duration, Instant};

use postern_model::control::{
    Answer, Base64, CommandBody, CommandRefusal, FRAME_BYTES, FromPerimeter, FromServer, HELLO_BYTES, Hello,
    OUTSTANDING, Reply, Role, SESSIONS,
};
use postern_model::ids::{EnvironmentId, SessionId, TunnelId, WorkspaceId};
use postern_net::frames::{FrameReader, FrameWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

struct Stand {
    hub: ControlHub,
    workspace: WorkspaceId,
    environment: EnvironmentId,
}

/// A hub whose patience is longer than any stall: what ends a stream of it is not silence.
fn stand() -> Stand {
    stand_of(Duration::from_secs(60), Duration::from_secs(60))
}

/// A hub that soon takes a stream for gone.
fn impatient() -> Stand {
    stand_of(Duration::from_millis(400), Duration::from_millis(200))
}

fn stand_of(silence: Duration, hello: Duration) -> Stand {
    let settings = ControlSettings { ping: Duration::from_millis(40), silence, hello };
    let (workspace, environment) = (WorkspaceId::default_workspace(), EnvironmentId::generate());
    Stand { hub: ControlHub::new(settings), workspace, environment }
}

impl Stand {
    fn owner(&self) -> Owner {
        Owner::Environment(self.environment.clone())
    }

    /// A stream of this owner; the hub's side ends with the token.
    fn attach(&self, owner: &Owner) -> (UnixStream, CancellationToken, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (end, ends) = (CancellationToken::new(), CancellationToken::new());
        let seat = self.hub.seat(&self.workspace, owner).expect("a seat");
        let (hub, token) = (self.hub.clone(), end.clone());
        let task = tokio::spawn(async move {
            hub.attach(seat, ours, token.cancelled()).await;
            ends.cancel();
        });
        (theirs, end, task)
    }

    async fn worker(&self, name: &str, sessions: &[SessionId]) -> Worker {
        let owner = self.owner();
        self.peer(&owner, Role::Worker, name, sessions).await
    }

    async fn peer(&self, owner: &Owner, role: Role, name: &str, sessions: &[SessionId]) -> Worker {
        let (stream, _end, task) = self.attach(owner);
        let (read, write) = tokio::io::split(stream);
        let mut worker = Worker {
            reader: FrameReader::new(read, FRAME_BYTES, PATIENCE),
            writer: FrameWriter::new(write, 4 * FRAME_BYTES, PATIENCE),
            task,
        };
        worker.say(FromPerimeter::Hello(hello(role, name, sessions))).await;
        self.until_there(name).await;
        worker
    }

    async fn until_there(&self, name: &str) {
        while !self.hub.peers(&self.workspace).iter().any(|peer| peer.name == name) {
            tokio::task::yield_now().await;
        }
    }

    fn of(&self, session: &SessionId) -> Target {
        Target::Session(self.environment.clone(), session.clone())
    }

    async fn freeze(&self, session: &SessionId) -> Result<Reply, CommandFailure> {
        self.hub.command(&self.of(session), CommandBody::Freeze { session: session.clone() }, PATIENCE).await
    }
}

struct Worker {
    reader: FrameReader<tokio::io::ReadHalf<UnixStream>>,
    writer: FrameWriter<tokio::io::WriteHalf<UnixStream>>,
    task: JoinHandle<()>,
}

impl Worker {
    async fn say(&mut self, word: FromPerimeter) {
        self.writer.send(&word).await.unwrap();
    }

    /// The next command; pings are passed over. `None` at the stream's end, with or without a goodbye.
    async fn commanded(&mut self) -> Option<(u64, CommandBody)> {
        loop {
            match self.reader.next::<FromServer>().await {
                Ok(Some(FromServer::Command(command))) => return Some((command.id, command.body)),
                Ok(Some(FromServer::Ping)) => {}
                Ok(Some(FromServer::Bye) | None) | Err(_) => return None,
            }
        }
    }

    /// Answers every command alike, and shows that it is alive.
    fn answer(mut self, result: Result<Reply, CommandRefusal>) -> JoinHandle<u32> {
        tokio::spawn(async move {
            let mut obeyed = 0;
            loop {
                let command = tokio::select! {
                    command = self.commanded() => command,
                    () = tokio::time::sleep(Duration::from_millis(50)) => {
                        if self.writer.send(&FromPerimeter::Ping).await.is_err() {
                            return obeyed;
                        }
                        continue;
                    }
                };
                let Some((id, _)) = command else { return obeyed };
                obeyed += 1;
                self.say(FromPerimeter::Answer(Answer { id, result: result.clone() })).await;
            }
        })
    }
}

fn hello(role: Role, name: &str, sessions: &[SessionId]) -> Hello {
    Hello {
        role,
        version: "1".into(),
        name: name.into(),
        sessions: sessions.to_vec(),
        perimeter_public_key: Some("ab".into()),
    }
}

fn code(result: Result<Reply, CommandFailure>) -> String {
    result.expect_err("a failure").code().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_goes_to_the_worker_that_holds_the_session() {
    let stand = stand();
    let session = SessionId::generate();
    let holder = stand.worker("holder", std::slice::from_ref(&session)).await.answer(Ok(Reply::Done));
    let other = stand.worker("other", &[]).await.answer(Err(CommandRefusal::new("never", "asked", "")));
    assert_eq!(stand.freeze(&session).await, Ok(Reply::Done));
    assert!(stand.hub.drain(PATIENCE).await);
    assert_eq!((holder.await.unwrap(), other.await.unwrap()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_reports_the_session_all_are_asked_and_the_one_that_has_it_counts() {
    let stand = stand();
    let session = SessionId::generate();
    let _one = stand.worker("one", &[]).await.answer(Err(CommandRefusal::not_held(&session)));
    assert_eq!(code(stand.freeze(&session).await), CommandRefusal::NOT_HELD);
    let _two = stand.worker("two", &[]).await.answer(Ok(Reply::Done));
    assert_eq!(stand.freeze(&session).await, Ok(Reply::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_moved_is_found_by_its_new_report() {
    let stand = stand();
    let session = SessionId::generate();
    let mut worker = stand.worker("w", &[]).await;
    worker.say(FromPerimeter::Sessions { sessions: vec![session.clone()] }).await;
    while stand.hub.peers(&stand.workspace)[0].sessions != [session.clone()] {
        tokio::task::yield_now().await;
    }
    let _answering = worker.answer(Ok(Reply::Done));
    assert_eq!(stand.freeze(&session).await, Ok(Reply::Done));
}

#[tokio::test]
async fn without_a_worker_the_failure_says_what_to_start() {
    let stand = stand();
    let failure = stand.freeze(&SessionId::generate()).await.unwrap_err();
    assert_eq!(failure.code(), "worker_none");
    assert!(failure.next_step().contains("postern worker"));
    let tunnel = Target::Tunnel(TunnelId::generate());
    assert_eq!(code(stand.hub.command(&tunnel, CommandBody::Status, PATIENCE).await), "gateway_none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_about_a_session_reaches_the_gateways_of_the_workspace_too() {
    let stand = stand();
    let session = SessionId::generate();
    let _worker = stand.worker("w", std::slice::from_ref(&session)).await.answer(Ok(Reply::Done));
    let tunnel = Owner::Tunnel(TunnelId::generate());
    let gateway = stand.peer(&tunnel, Role::Gateway, "g", &[]).await.answer(Ok(Reply::Done));
    let body = CommandBody::RevokeGrants { session: session.clone() };
    let verdicts = stand.hub.command_all(&stand.workspace, &stand.environment, &session, body, PATIENCE).await;
    assert_eq!(verdicts.iter().map(|verdict| verdict.peer.role).collect::<Vec<_>>(), [Role::Worker, Role::Gateway]);
    assert!(verdicts.iter().all(|verdict| verdict.result.is_ok()));
    let elsewhere = WorkspaceId::parse("wrkspc_elsewhere").unwrap();
    assert!(stand.hub.peers(&elsewhere).is_empty());
    assert!(stand.hub.drain(PATIENCE).await);
    assert_eq!(gateway.await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_goes_away_leaves_nobody_waiting() {
    let stand = stand();
    let session = SessionId::generate();
    let mut worker = stand.worker("w", std::slice::from_ref(&session)).await;
    let (hub, target) = (stand.hub.clone(), stand.of(&session));
    let body = CommandBody::Freeze { session };
    let asking = tokio::spawn(async move { hub.command(&target, body, PATIENCE).await });
    worker.commanded().await.expect("a command");
    drop(worker);
    assert_eq!(code(asking.await.unwrap()), "perimeter_gone");
    assert!(stand.hub.peers(&stand.workspace).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_nobodys_and_a_second_one_neither() {
    let stand = stand();
    let session = SessionId::generate();
    let mut worker = stand.worker("w", std::slice::from_ref(&session)).await;
    let body = CommandBody::Freeze { session: session.clone() };
    let late = stand.hub.command(&stand.of(&session), body, Duration::from_millis(20)).await;
    assert_eq!(code(late), "perimeter_late");
    let (id, _) = worker.commanded().await.expect("the command");
    for _ in 0..2 {
        worker.say(FromPerimeter::Answer(Answer { id, result: Ok(Reply::Done) })).await;
    }
    let _answering = worker.answer(Ok(Reply::Done));
    assert_eq!(stand.freeze(&session).await, Ok(Reply::Done), "the stream stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_commands_wait_and_no_more() {
    let stand = stand();
    let session = SessionId::generate();
    let _silent = stand.worker("w", std::slice::from_ref(&session)).await;
    let mut asking = JoinSet::new();
    for _ in 0..3 * OUTSTANDING {
        let (hub, target) = (stand.hub.clone(), stand.of(&session));
        let body = CommandBody::Freeze { session: session.clone() };
        asking.spawn(async move { hub.command(&target, body, Duration::from_secs(2)).await });
    }
    let codes: Vec<_> = asking.join_all().await.into_iter().map(code).collect();
    let busy = codes.iter().filter(|code| *code == "perimeter_busy").count();
    let late = codes.iter().filter(|code| *code == "perimeter_late").count();
    assert_eq!(busy + late, 3 * OUTSTANDING, "{codes:?}");
    assert!((OUTSTANDING..=2 * OUTSTANDING).contains(&late) && busy >= OUTSTANDING, "{busy} busy, {late} late");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_first_words_and_hostile_words_end_the_stream() {
    let many: Vec<SessionId> = (0..=SESSIONS).map(|_| SessionId::generate()).collect();
    let good = || FromPerimeter::Hello(hello(Role::Worker, "h", &[]));
    let table: Vec<(&str, Vec<FromPerimeter>)> = vec![
        ("no hello", vec![FromPerimeter::Ping]),
        ("an answer first", vec![FromPerimeter::Answer(Answer { id: 0, result: Ok(Reply::Done) })]),
        ("another role", vec![FromPerimeter::Hello(hello(Role::Gateway, "h", &[]))]),
        ("too many sessions at once", vec![FromPerimeter::Hello(hello(Role::Worker, "h", &many))]),
        ("hello twice", vec![good(), good()]),
        ("too many sessions", vec![good(), FromPerimeter::Sessions { sessions: many.clone() }]),
        ("an unknown id", vec![good(), FromPerimeter::Answer(Answer { id: 0, result: Ok(Reply::Done) })]),
        (
            "an unknown id of the far end",
            vec![good(), FromPerimeter::Answer(Answer { id: u64::MAX, result: Ok(Reply::Done) })],
        ),
        ("a flood", std::iter::once(good()).chain((0..20_000).map(|_| FromPerimeter::Ping)).collect()),
    ];
    for (what, words) in table {
        let stand = stand();
        let (stream, _end, task) = stand.attach(&stand.owner());
        let (mut read, write) = tokio::io::split(stream);
        let mut writer = FrameWriter::new(write, 4 * FRAME_BYTES, PATIENCE);
        for word in &words {
            if writer.send(word).await.is_err() {
                break;
            }
        }
        tokio::time::timeout(PATIENCE, task).await.unwrap_or_else(|_| panic!("{what} goes on")).unwrap();
        let _rest = read.read_to_end(&mut Vec::new()).await;
        assert!(stand.hub.peers(&stand.workspace).is_empty(), "{what}");
        assert!(stand.hub.seat(&stand.workspace, &stand.owner()).is_some(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_torn_and_garbled_frames_end_the_stream() {
    for bytes in [
        &u32::MAX.to_le_bytes()[..],
        &u32::try_from(HELLO_BYTES + 1).unwrap().to_le_bytes(),
        b"\x05\0\0\0hello",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\0",
    ] {
        let stand = stand();
        let (mut stream, _end, task) = stand.attach(&stand.owner());
        stream.write_all(bytes).await.unwrap();
        tokio::time::timeout(PATIENCE, task).await.expect("an end").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_nothing_is_gone_before_or_after_its_first_word() {
    let stand = impatient();
    let (_mute, _end, task) = stand.attach(&stand.owner());
    let began = Instant::now();
    tokio::time::timeout(PATIENCE, task).await.expect("no first word").unwrap();
    let half_open = stand.worker("w", &[]).await;
    tokio::time::timeout(PATIENCE, half_open.task).await.expect("half open").unwrap();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(stand.hub.peers(&stand.workspace).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_credential_ends_the_stream_at_once_even_of_a_peer_that_reads_nothing() {
    let stand = stand();
    let session = SessionId::generate();
    let (mut stuck, end, task) = stand.attach(&stand.owner());
    let word = FromPerimeter::Hello(hello(Role::Worker, "stuck", std::slice::from_ref(&session)));
    FrameWriter::new(&mut stuck, FRAME_BYTES, PATIENCE).send(&word).await.unwrap();
    stand.until_there("stuck").await;
    let bytes = Base64(vec![7; 1 << 20]);
    let path = "/workspace/.results/a".to_owned();
    let body = CommandBody::PutFile { session: session.clone(), path, bytes, mode: 0o644 };
    let (hub, target) = (stand.hub.clone(), stand.of(&session));
    let asking = tokio::spawn(async move { hub.command(&target, body, PATIENCE).await });
    // Of what was asked the head is read, behind pings; the stream is full of the rest.
    while let length = stuck.read_u32_le().await.unwrap()
        && length < 1 << 20
    {
        stuck.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.unwrap();
    }
    let began = Instant::now();
    end.cancel();
    task.await.unwrap();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(code(asking.await.unwrap()), "perimeter_gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_goodbye_and_takes_no_more_streams() {
    let stand = stand();
    let mut worker = stand.worker("w", &[]).await;
    let (drained, word) = tokio::join!(stand.hub.drain(PATIENCE), async {
        loop {
            match worker.reader.next::<FromServer>().await.unwrap() {
                Some(FromServer::Ping) => {}
                other => return other,
            }
        }
    });
    assert!(drained);
    assert_eq!(word, Some(FromServer::Bye));
    assert!(stand.hub.seat(&stand.workspace, &stand.owner()).is_none());
}

#[tokio::test]
async fn one_owner_cannot_take_every_seat() {
    let stand = stand();
    let owner = stand.owner();
    let seats: Vec<_> = (0..STREAMS_PER_OWNER).map_while(|_| stand.hub.seat(&stand.workspace, &owner)).collect();
    assert_eq!(seats.len(), STREAMS_PER_OWNER);
    assert!(stand.hub.seat(&stand.workspace, &owner).is_none());
    let neighbour = Owner::Environment(EnvironmentId::generate());
    assert!(stand.hub.seat(&stand.workspace, &neighbour).is_some());
    drop(seats);
    assert!(stand.hub.seat(&stand.workspace, &owner).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_owners_together_have_so_many_seats() {
    let stand = stand();
    let seat = |_| stand.hub.seat(&stand.workspace, &Owner::Environment(EnvironmentId::generate()));
    let seats: Vec<_> = (0..600).map_while(seat).collect();
    assert_eq!(seats.len(), 512);
}
