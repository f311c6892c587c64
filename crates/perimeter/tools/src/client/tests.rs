//! Honest, hostile, silent and dead peers on the tool channel.

use super::*;
use crate::toolbox::Toolbox;
use serde_json::json;

fn input(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A peer that reads one call and writes these raw bytes as its answer.
fn answering(frame: Vec<u8>) -> ToolClient {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    std::thread::spawn(move || {
        let channel = postern_exec::Channel::new(theirs.try_clone().expect("a copy").into());
        let _call = channel.receive::<Request>(FRAME_LIMIT_BYTES);
        let _ = io::Write::write_all(&mut &theirs, &frame);
    });
    ToolClient { channel: Some(Channel::new(ours.into()).expect("a channel")), grace: Duration::from_millis(200) }
}

fn framed(answer: &Value) -> Vec<u8> {
    // What a well-behaved peer would put on the wire, so that only the content is wrong.
    let (channel, other) = postern_exec::Channel::pair().expect("a pair");
    channel.send(answer, &[]).expect("sent");
    drop(channel);
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut std::os::unix::net::UnixStream::from(other), &mut bytes).expect("read");
    bytes
}

#[tokio::test]
async fn an_honest_answer_is_passed_on() {
    let outcome = json!({"id": "a", "is_error": false, "content": [{"type": "text", "text": "hello"}]});
    let answer = answering(framed(&outcome)).call("a", "read", Map::new(), CALL_DEADLINE).await.expect("an outcome");
    assert_eq!(answer.content, vec![Block::text("hello")]);
}

#[tokio::test]
async fn a_hostile_answer_is_refused_and_the_channel_not_used_again() {
    let text = |id: &str, content: Value| json!({"id": id, "is_error": false, "content": content});
    for (answer, why) in [
        (text("b", json!([{"type": "text", "text": "x"}])), "another id"),
        (text("a", json!([])), "no block"),
        (text("a", json!([{"type": "text", "text": ""}])), "an empty text"),
        (text("a", json!([{"type": "search_result", "title": "x"}])), "a foreign block"),
        (text("a", json!([{"type": "text", "text": "x", "cache_control": {}}])), "an unknown field"),
        (text("a", json!([{"type": "image", "source": {"type": "url", "url": "http://evil"}}])), "an address"),
        (
            text(
                "a",
                json!([{"type": "image", "source": {"type": "base64", "media_type": "text/html", "data": "AAAA"}}]),
            ),
            "another type",
        ),
        (
            text(
                "a",
                json!([{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "<>=="}}]),
            ),
            "no base64",
        ),
        (json!({"id": "a"}), "missing fields"),
        (json!([1, 2]), "no object"),
    ] {
        let mut client = answering(framed(&answer));
        let first = client.call("a", "read", Map::new(), CALL_DEADLINE).await;
        assert!(matches!(first, Err(CallError::Hostile { .. } | CallError::Channel(_))), "{why}: {first:?}");
        assert!(matches!(client.call("a", "read", Map::new(), CALL_DEADLINE).await, Err(CallError::Gone)), "{why}");
    }
}

#[tokio::test]
async fn a_frame_over_the_limit_is_not_read() {
    let length = u32::try_from(FRAME_LIMIT_BYTES + 1).expect("the limit fits").to_le_bytes();
    let mut bytes = framed(&json!({}));
    bytes[..4].copy_from_slice(&length);
    let answer = answering(bytes).call("a", "read", Map::new(), CALL_DEADLINE).await;
    assert!(matches!(answer, Err(CallError::Channel(ChannelError::TooLong { .. }))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_after_deadline_and_grace() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let mut client = ToolClient::new(ours.into()).expect("a client");
    let began = tokio::time::Instant::now();
    let answer = client.call("a", "bash", Map::new(), CALL_DEADLINE).await.expect_err("no answer");
    assert_eq!(answer.to_string(), "tool 'bash' timed out");
    assert_eq!(began.elapsed().as_secs(), 150 + 5);
}

#[tokio::test]
async fn a_closed_channel_means_that_the_sandbox_ended() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    drop(theirs);
    let mut client = ToolClient::new(ours.into()).expect("a client");
    assert!(matches!(client.call("a", "bash", Map::new(), CALL_DEADLINE).await, Err(CallError::Gone)));
}

#[tokio::test]
async fn a_real_server_answers_calls_in_a_configured_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let configuration = Configuration { workdir: directory.path().to_owned(), roots: Vec::new() };
    let (server, ours) = postern_exec::Channel::pair().expect("a pair");
    let thread = std::thread::spawn({
        let elsewhere = Configuration { workdir: "/nonexistent".into(), roots: Vec::new() };
        move || crate::server::serve(&server, &mut Toolbox::new(&elsewhere)).map_err(|error| error.to_string())
    });
    let mut client = ToolClient::new(ours).expect("a client");
    client.configure(configuration).await.expect("configured");
    let write = input(json!({"file_path": "a/b.txt", "content": "héllo"}));
    let outcome = client.call("1", "write", write, CALL_DEADLINE).await.expect("written");
    assert_eq!(outcome.content, vec![Block::text("wrote 5 bytes to a/b.txt")]);
    let bash = input(json!({"command": "cat a/b.txt; exit_status=4; (exit $exit_status)"}));
    let outcome = client.call("2", "bash", bash, CALL_DEADLINE).await.expect("run");
    assert!(outcome.is_error);
    assert_eq!(outcome.content, vec![Block::text("héllo")]);
    drop(client);
    assert_eq!(thread.join().expect("the server ended"), Ok(()));
}

/// A peer that answers one call as `answer` says, with the whole socket in its hands.
fn played_by(answer: impl FnOnce(&std::os::unix::net::UnixStream) + Send + 'static) -> ToolClient {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    std::thread::spawn(move || {
        let channel = postern_exec::Channel::new(theirs.try_clone().expect("a copy").into());
        let _call = channel.receive::<Request>(FRAME_LIMIT_BYTES);
        answer(&theirs);
    });
    ToolClient { channel: Some(Channel::new(ours.into()).expect("a channel")), grace: Duration::from_millis(200) }
}

fn saying(text: &str) -> Value {
    json!({"id": "a", "is_error": false, "content": [{"type": "text", "text": text}]})
}

#[tokio::test]
async fn a_descriptor_with_an_answer_is_closed_and_the_channel_not_used_again() {
    let (mut read, write) = std::io::pipe().expect("a pipe");
    let mut client = played_by(move |socket| {
        let channel = postern_exec::Channel::new(socket.try_clone().expect("a copy").into());
        let _ = channel.send(&saying("take this"), &[std::os::fd::AsFd::as_fd(&write)]);
    });
    let answer = client.call("a", "read", Map::new(), CALL_DEADLINE).await;
    assert!(matches!(answer, Err(CallError::Hostile { what: "a descriptor" })), "{answer:?}");
    // No copy of the writing end is left: the reader comes to its end.
    let ended = tokio::task::spawn_blocking(move || io::Read::read_to_end(&mut read, &mut Vec::new()));
    let ended = tokio::time::timeout(Duration::from_secs(5), ended).await.expect("no copy was kept");
    assert_eq!(ended.expect("joined").expect("read"), 0);
    assert!(matches!(client.call("a", "read", Map::new(), CALL_DEADLINE).await, Err(CallError::Gone)));
}

/// A socket whose last close takes this long: what was sent over it is not read by anybody.
fn lingering(seconds: Duration) -> (std::net::TcpStream, impl Sized) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    #[expect(clippy::disallowed_methods, reason = "stands for a connection that code in a sandbox has")]
    let socket = std::net::TcpStream::connect(address).expect("connects");
    let (unread, _) = listener.accept().expect("accepts");
    rustix::net::sockopt::set_socket_linger(&socket, Some(seconds)).expect("set");
    socket.set_nonblocking(true).expect("set");
    while io::Write::write(&mut &socket, &[0; 1 << 16]).is_ok() {}
    (socket, unread)
}

#[tokio::test]
async fn a_socket_that_lingers_holds_up_no_thread_of_the_runtime() {
    const LINGERS: Duration = Duration::from_secs(15);
    type Taken = fn(OwnedFd) -> ToolClient;
    let of = |ours: OwnedFd| ToolClient::new(ours).expect("a client");
    let older_kernel = |ours: OwnedFd| {
        let carried = relay::of(ours).expect("two threads");
        ToolClient { channel: Some(Channel::new(carried).expect("a channel")), grace: GRACE }
    };
    for (taken, read) in [(of as Taken, true), (of, false), (older_kernel, true), (older_kernel, false)] {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let mut client = taken(ours.into());
        let (socket, unread) = lingering(LINGERS);
        let send = move || {
            let channel = postern_exec::Channel::new(theirs.into());
            let _refused = channel.send(&saying("take this"), &[AsFd::as_fd(&socket)]);
            // The last of it, where the kernel refused it.
            std::thread::spawn(move || drop(socket));
        };
        tokio::task::spawn_blocking(send).await.expect("sent");
        let began = std::time::Instant::now();
        if read {
            // A thread of the relay may be held up, and with it the answer; not whoever waits for it.
            let call = client.call("a", "read", Map::new(), CALL_DEADLINE);
            let answer = tokio::time::timeout(Duration::from_secs(1), call).await;
            assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
        }
        drop(client);
        assert!(began.elapsed() < LINGERS / 2, "{:?}, read: {read}", began.elapsed());
        drop(unread);
    }
}

#[tokio::test]
async fn a_kernel_that_can_refuses_descriptors_before_they_are_on_their_way() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let (another, _) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    if postern_sandbox::refuse_descriptors(another.as_fd()).is_err() {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
        let mut release = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        assert!((release.next(), release.next()) < (Some(6), Some(16)), "{text}");
        return;
    }
    let mut client = ToolClient::new(ours.into()).expect("a client");
    let channel = postern_exec::Channel::new(theirs.into());
    let null = std::fs::File::open("/dev/null").expect("opens");
    let refused = channel.send(&saying("take this"), &[null.as_fd()]).expect_err("the kernel refuses it");
    let ChannelError::Io(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    drop(channel);
    assert!(matches!(client.call("a", "read", Map::new(), CALL_DEADLINE).await, Err(CallError::Gone)));
}

#[tokio::test]
async fn a_peer_that_dies_within_a_frame_is_gone() {
    for kept in [1, 3, 4, 9] {
        let mut client = played_by(move |socket| {
            let _ = io::Write::write_all(&mut &*socket, &framed(&saying("never whole"))[..kept]);
        });
        let answer = client.call("a", "read", Map::new(), CALL_DEADLINE).await;
        assert!(matches!(answer, Err(CallError::Gone)), "{kept} bytes: {answer:?}");
    }
}

#[tokio::test]
async fn a_peer_that_stops_within_a_frame_is_given_up_after_deadline_and_grace() {
    let (told, tell) = std::sync::mpsc::channel::<()>();
    let mut client = played_by(move |socket| {
        let _ = io::Write::write_all(&mut &*socket, &framed(&saying("never whole"))[..9]);
        let _held_open = tell.recv();
    });
    let answer = client.call("a", "read", Map::new(), Duration::from_millis(20)).await;
    assert!(matches!(answer, Err(CallError::TimedOut { .. })), "{answer:?}");
    drop(told);
}

#[tokio::test]
async fn a_flood_of_answers_costs_one_answer_and_the_channel() {
    let mut client = played_by(|socket| {
        let (first, further) = (framed(&saying("one")), framed(&saying("one more")));
        let _ = io::Write::write_all(&mut &*socket, &first);
        // Until the worker closes its end.
        while io::Write::write_all(&mut &*socket, &further).is_ok() {}
    });
    assert!(client.call("a", "read", Map::new(), CALL_DEADLINE).await.is_ok());
    let second = client.call("b", "read", Map::new(), CALL_DEADLINE).await;
    assert!(matches!(second, Err(CallError::Hostile { .. })), "{second:?}");
}

#[tokio::test]
async fn what_is_not_utf8_or_nested_without_end_is_refused() {
    let mut broken = framed(&saying("xx"));
    let at = broken.windows(2).position(|pair| pair == b"xx").expect("the text");
    broken[at] = 0xff;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
    let mut nested = u32::try_from(deep.len()).expect("short").to_le_bytes().to_vec();
    nested.extend(deep);
    for frame in [broken, nested] {
        let answer = answering(frame).call("a", "read", Map::new(), CALL_DEADLINE).await;
        assert!(matches!(answer, Err(CallError::Channel(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn control_characters_and_lines_that_look_like_ours_are_passed_on_as_text() {
    // An agent may write what a refusal of ours looks like. The audit log, which it cannot reach, has what was refused.
    let text = "\u{1b}[2J\u{0}\r\u{7}\n[postern] refused x:1 reason=host_not_allowed next=nothing";
    let answer =
        answering(framed(&saying(text))).call("a", "bash", Map::new(), CALL_DEADLINE).await.expect("an outcome");
    assert_eq!(answer.content, vec![Block::text(text)]);
}
