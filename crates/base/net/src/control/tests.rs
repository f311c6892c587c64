//! The loop against servers of every kind, over loopback.

use std::sync::atomic::{AtomicU32, Ordering};

use postern_model::control::Role;
use postern_policy::configured;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::tls::TlsRoots;

const PATIENCE: Duration = Duration::from_secs(10);

/// Obeys everything, and counts.
struct Obedient {
    sessions: watch::Sender<Vec<SessionId>>,
    obeyed: AtomicU32,
}

impl ControlHandler for Obedient {
    fn hello(&self) -> Hello {
        let sessions = self.sessions.borrow().clone();
        Hello { role: Role::Worker, version: "1".into(), name: "w".into(), sessions, perimeter_public_key: None }
    }

    fn sessions(&self) -> watch::Receiver<Vec<SessionId>> {
        self.sessions.subscribe()
    }

    fn obey(&self, _command: CommandBody) -> Obeying<'_> {
        self.obeyed.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(Reply::Done) })
    }
}

struct Stand {
    listener: TcpListener,
    handler: Arc<Obedient>,
    link: watch::Receiver<Link>,
    end: CancellationToken,
    running: JoinHandle<()>,
}

/// A stand whose streams do not end by silence.
async fn stand() -> Stand {
    stand_of(Duration::from_secs(60)).await
}

/// A stand whose streams end soon where nothing is heard.
async fn impatient() -> Stand {
    stand_of(Duration::from_millis(300)).await
}

async fn stand_of(silence: Duration) -> Stand {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let client = HttpClient::new(configured(&endpoint), &TlsRoots::platform_and_file(None).unwrap()).unwrap();
    let handler = Arc::new(Obedient { sessions: watch::Sender::new(Vec::new()), obeyed: AtomicU32::new(0) });
    let (link, seen) = watch::channel(Link::Connecting);
    let settings = Settings {
        ping: Duration::from_millis(30),
        silence,
        backoff: Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(20), ..Backoff::default() },
        again: Duration::from_millis(30),
        ..Settings::default()
    };
    let end = CancellationToken::new();
    let credential: Credential = Arc::new(|| Some(HeaderValue::from_static("Bearer key")));
    let running = tokio::spawn(run_with(settings, client, credential, handler.clone(), link, end.clone()));
    Stand { listener, handler, link: seen, end, running }
}

/// Takes a connection and its request's head.
async fn request(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.expect("it dials").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap().to_ascii_lowercase())
}

async fn switched(listener: &TcpListener) -> TcpStream {
    let (mut stream, head) = request(listener).await;
    assert!(head.starts_with("get /v1/perimeter/control http/1.1"), "{head}");
    assert!(head.contains("upgrade: postern-control/1") && head.contains("authorization: bearer key"), "{head}");
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: postern-control/1\r\n\r\n";
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream
}

async fn heard(reader: &mut FrameReader<impl tokio::io::AsyncRead + Unpin>) -> FromPerimeter {
    loop {
        match reader.next::<FromPerimeter>().await.unwrap().expect("a word") {
            FromPerimeter::Ping => {}
            word => return word,
        }
    }
}

#[tokio::test]
async fn it_says_who_it_is_obeys_tells_of_sessions_and_comes_back_after_a_goodbye() {
    let stand = stand().await;
    for round in 1..=2 {
        let (read, write) = tokio::io::split(switched(&stand.listener).await);
        let mut reader = FrameReader::new(read, FRAME_BYTES, PATIENCE);
        let mut writer = FrameWriter::new(write, FRAME_BYTES, PATIENCE);
        assert!(matches!(heard(&mut reader).await, FromPerimeter::Hello(_)));
        let command = Command { id: 7, body: CommandBody::Status };
        writer.send(&FromServer::Command(command)).await.unwrap();
        assert_eq!(heard(&mut reader).await, FromPerimeter::Answer(Answer { id: 7, result: Ok(Reply::Done) }));
        let sessions = vec![SessionId::generate()];
        stand.handler.sessions.send_replace(sessions.clone());
        assert_eq!(heard(&mut reader).await, FromPerimeter::Sessions { sessions });
        assert_eq!(*stand.link.borrow(), Link::Connected);
        assert_eq!(stand.handler.obeyed.load(Ordering::Relaxed), round);
        writer.send(&FromServer::Bye).await.unwrap();
    }
    stand.end.cancel();
    tokio::time::timeout(PATIENCE, stand.running).await.expect("an end").unwrap();
}

#[tokio::test]
async fn what_a_server_without_control_streams_answers_is_told_from_trouble() {
    for (answer, expected) in [
        ("404 Not Found\r\n", Link::NotOffered),
        ("404 Not Found\r\npostern-version: 0.0.1\r\n", Link::NotOffered),
        ("401 Unauthorized\r\n", Link::NotOffered),
        ("400 Bad Request\r\n", Link::NotOffered),
        ("401 Unauthorized\r\npostern-version: 0.1.0\r\n", Link::Rejected),
        ("403 Forbidden\r\npostern-version: 0.1.0\r\n", Link::Rejected),
    ] {
        let mut stand = stand().await;
        let (mut stream, _) = request(&stand.listener).await;
        let answer = format!("HTTP/1.1 {answer}content-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let told = tokio::time::timeout(PATIENCE, stand.link.wait_for(|link| *link == expected)).await;
        assert!(told.is_ok(), "{answer}");
        // It asks again later: a server may learn.
        drop(switched(&stand.listener).await);
        stand.end.cancel();
    }
}

#[tokio::test]
async fn trouble_and_lies_are_tried_again_and_never_taken_for_a_stream() {
    let stand = stand().await;
    for answer in [
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "SSH-2.0-nothing\r\n\r\n",
        "",
    ] {
        let (mut stream, _) = request(&stand.listener).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        drop(stream);
        assert_ne!(*stand.link.borrow(), Link::Connected, "{answer}");
    }
    drop(switched(&stand.listener).await);
    stand.end.cancel();
}

#[test]
fn it_is_dialled_again_soon_and_never_more_seldom_than_every_two_seconds() {
    let waits = Settings::default().backoff;
    let longest: Vec<_> =
        (0..6).map(|attempt| waits.delay(attempt, None, u64::MAX).as_millis().div_ceil(100)).collect();
    assert_eq!(longest, [2, 4, 8, 16, 20, 20]);
}

#[tokio::test]
async fn a_half_open_stream_is_given_up_and_dialled_again() {
    let stand = impatient().await;
    let _mute = switched(&stand.listener).await;
    let _again = switched(&stand.listener).await;
    assert_eq!(stand.handler.obeyed.load(Ordering::Relaxed), 0);
    stand.end.cancel();
}

#[tokio::test]
async fn an_oversized_or_garbled_command_ends_the_stream_and_nothing_is_obeyed() {
    let stand = stand().await;
    for bytes in [&u32::MAX.to_le_bytes()[..], b"\x02\0\0\0{]", b"\x10\0\0\0{\"say\":\"nothing\"}"] {
        let mut stream = switched(&stand.listener).await;
        stream.write_all(bytes).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "{bytes:?}");
    }
    assert_eq!(stand.handler.obeyed.load(Ordering::Relaxed), 0);
    stand.end.cancel();
}

/// A stream whose hello was heard, as its two ends.
async fn greeted(
    stand: &Stand,
) -> (FrameReader<tokio::io::ReadHalf<TcpStream>>, FrameWriter<tokio::io::WriteHalf<TcpStream>>) {
    let (read, write) = tokio::io::split(switched(&stand.listener).await);
    let mut reader = FrameReader::new(read, FRAME_BYTES, PATIENCE);
    assert!(matches!(heard(&mut reader).await, FromPerimeter::Hello(_)));
    (reader, FrameWriter::new(write, FRAME_BYTES, PATIENCE))
}

#[tokio::test]
async fn huge_and_repeated_ids_are_answered_as_they_are() {
    let stand = stand().await;
    let (mut reader, mut writer) = greeted(&stand).await;
    for id in [u64::MAX, 7, 7, 0, u64::MAX] {
        writer.send(&FromServer::Command(Command { id, body: CommandBody::Status })).await.unwrap();
        assert_eq!(heard(&mut reader).await, FromPerimeter::Answer(Answer { id, result: Ok(Reply::Done) }));
    }
    stand.end.cancel();
}

#[tokio::test]
async fn of_a_flood_of_commands_so_many_are_obeyed_and_the_others_refused() {
    let stand = stand().await;
    let (mut reader, mut writer) = greeted(&stand).await;
    let flood = 2_000;
    let began = Instant::now();
    let sending = tokio::spawn(async move {
        for id in 0..flood {
            writer.send(&FromServer::Command(Command { id, body: CommandBody::Status })).await.unwrap();
            writer.send(&FromServer::Ping).await.unwrap();
        }
        writer
    });
    let mut refused = 0_u32;
    for _ in 0..flood {
        let FromPerimeter::Answer(Answer { result, .. }) = heard(&mut reader).await else { panic!("no answer") };
        refused += u32::from(result.is_err_and(|refusal| refusal.code == "limit_commands"));
    }
    let most = COMMANDS_AT_ONCE + COMMANDS_PER_SECOND * began.elapsed().as_secs_f64();
    let obeyed = stand.handler.obeyed.load(Ordering::Relaxed);
    assert!(f64::from(obeyed) <= most, "{obeyed} of {flood} were obeyed");
    assert_eq!(u64::from(refused + obeyed), flood);
    let _writer = sending.await.unwrap();
    assert_eq!(*stand.link.borrow(), Link::Connected, "the stream stands");
    stand.end.cancel();
}

#[test]
fn a_quiet_time_makes_room_and_never_more_than_so_much() {
    let now = Instant::now();
    let mut pace = Pace::new(now);
    let all = |pace: &mut Pace, now: Instant| (0..10_000).filter(|_| pace.allows(now)).count();
    assert_eq!(all(&mut pace, now), 256);
    assert_eq!(all(&mut pace, now + Duration::from_secs(1)), 20);
    assert_eq!(all(&mut pace, now + Duration::from_secs(86_400)), 256);
}

#[tokio::test]
async fn a_server_that_sends_and_never_reads_is_given_up() {
    let stand = impatient().await;
    let mut stream = switched(&stand.listener).await;
    let frame = serde_json::to_vec(&FromServer::Command(Command { id: 1, body: CommandBody::Status })).unwrap();
    let frame = [&u32::try_from(frame.len()).unwrap().to_le_bytes()[..], &frame].concat();
    let flooding = async {
        // Until the other side takes no more or is gone.
        while stream.write_all(&frame).await.is_ok() {}
    };
    let again = tokio::time::timeout(PATIENCE, async {
        tokio::select! {
            () = async { flooding.await; std::future::pending().await } => {}
            _again = stand.listener.accept() => {}
        }
    });
    assert!(again.await.is_ok(), "it dials again");
    stand.end.cancel();
}

#[tokio::test]
async fn half_a_frame_holds_up_nothing_but_its_stream() {
    let stand = impatient().await;
    let (mut reader, writer) = greeted(&stand).await;
    drop(writer);
    let mut first = switched_half(&stand).await;
    // Its words go on while the server's frame is not whole, and the end is the silence's.
    let ended = tokio::time::timeout(PATIENCE, first.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok());
    let _gone = reader.next::<FromPerimeter>().await;
    assert_eq!(stand.handler.obeyed.load(Ordering::Relaxed), 0);
    stand.end.cancel();
}

/// The next stream, with the beginning of a frame in it.
async fn switched_half(stand: &Stand) -> TcpStream {
    let mut stream = switched(&stand.listener).await;
    stream.write_all(b"\x40\0\0\0{\"say\":\"comm").await.unwrap();
    stream
}

#[tokio::test]
async fn what_comes_with_the_head_of_the_answer_belongs_to_the_stream() {
    let stand = stand().await;
    let (mut stream, _) = request(&stand.listener).await;
    let frame = serde_json::to_vec(&FromServer::Command(Command { id: 3, body: CommandBody::Status })).unwrap();
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: postern-control/1\r\n\r\n";
    let together = [head.as_bytes(), &u32::try_from(frame.len()).unwrap().to_le_bytes(), &frame].concat();
    stream.write_all(&together).await.unwrap();
    let mut reader = FrameReader::new(stream, FRAME_BYTES, PATIENCE);
    assert!(matches!(heard(&mut reader).await, FromPerimeter::Hello(_)));
    assert_eq!(heard(&mut reader).await, FromPerimeter::Answer(Answer { id: 3, result: Ok(Reply::Done) }));
    stand.end.cancel();
}
