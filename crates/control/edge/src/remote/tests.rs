use std::os::fd::OwnedFd;
use std::time::Duration;

use postern_exec::rpc;

use super::*;
use crate::limits::Limits;

const DOMAIN: &str = "a.tunnel.localhost";
const HOST: &str = "wiki.a.tunnel.localhost";

fn entry(id: &str, domain: &str) -> TunnelEntry {
    TunnelEntry {
        id: id.to_owned(),
        workspace: String::new(),
        domain: domain.to_owned(),
        token_digest: None,
        token_generation: 1,
        certificates: Vec::new(),
        archived: false,
    }
}

/// A server that knows these tunnels.
fn knowing(entries: impl IntoIterator<Item = TunnelEntry>) -> Remote {
    let limits = Limits { reconnect: Duration::from_millis(10), ..Limits::default() };
    let remote = Remote::new(Settings { limits, ..Settings::default() });
    entries.into_iter().for_each(|entry| remote.inner.directory.put(entry));
    remote
}

/// An edge that answers as it is told, and never where that is not at all; ends when it is worked with no longer.
fn edge(
    remote: &Remote,
    answer: impl Fn(Ask, Vec<OwnedFd>) -> Option<Answer> + Send + Sync + 'static,
) -> tokio::task::JoinHandle<()> {
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = Channel::new(theirs).unwrap();
    tokio::spawn(rpc::serve(theirs, limits::MESSAGE_BYTES, move |ask, descriptors| {
        let answer = answer(ask, descriptors);
        async move { (if let Some(answer) = answer { answer } else { std::future::pending().await }, Vec::new()) }
    }));
    let remote = remote.clone();
    tokio::spawn(async move { remote.attend(ours).await })
}

async fn worked_with(remote: &Remote) {
    while remote.current().is_none() {
        tokio::task::yield_now().await;
    }
}

/// How it answers where it is not asked for what a test is about.
fn otherwise(ask: &Ask) -> Option<Answer> {
    match ask {
        Ask::Notes { .. } => Some(Answer::Notes(Vec::new())),
        Ask::Status { .. } => None,
        Ask::Put(_) | Ask::Begin(_) | Ask::Sever(_) | Ask::Open { .. } => Some(Answer::Done),
    }
}

/// One that says this of each stream, and keeps its end.
fn edge_that_says(remote: &Remote, word: Option<Opened>) -> (tokio::task::JoinHandle<()>, Arc<Mutex<Vec<OwnedFd>>>) {
    let held: Arc<Mutex<Vec<OwnedFd>>> = Arc::default();
    let keeping = Arc::clone(&held);
    let edge = edge(remote, move |ask, mut descriptors| {
        if let Some(word) = &word
            && let Some(socket) = descriptors.pop()
        {
            let channel = postern_exec::Channel::new(socket);
            channel.send(word, &[]).unwrap();
            descriptors.push(channel.into_socket());
        }
        lock(&keeping).append(&mut descriptors);
        otherwise(&ask)
    });
    (edge, held)
}

#[tokio::test]
async fn an_edge_is_told_of_many_tunnels_in_several_messages() {
    let remote = knowing((0..1_200).map(|n| entry(&format!("tnl_{n}"), &format!("t{n}.tunnel.localhost"))));
    let told: Arc<Mutex<Vec<usize>>> = Arc::default();
    let telling = Arc::clone(&told);
    let _edge = edge(&remote, move |ask, _| {
        if let Ask::Put(tunnels) = &ask {
            lock(&telling).push(tunnels.len());
        }
        otherwise(&ask)
    });
    worked_with(&remote).await;
    assert_eq!(*lock(&told), [500, 500, 200]);
}

#[tokio::test]
async fn an_edge_that_says_too_much_at_once_is_given_up() {
    let remote = knowing([entry("tnl_a", DOMAIN)]);
    let attended = edge(&remote, |ask, _| {
        let Ask::Notes { since } = ask else { return otherwise(&ask) };
        // The first is just short enough, and the second is not.
        let length = match since {
            0 => (1 << 20) - 1_000,
            1 => 1 << 20,
            _ => return None,
        };
        let note = ErrorNote { at: std::time::SystemTime::now(), code: "x".to_owned(), message: "x".repeat(length) };
        Some(Answer::Notes(vec![Numbered { number: since + 1, tunnel: "tnl_a".to_owned(), note }]))
    });
    tokio::time::timeout(Duration::from_secs(20), attended).await.expect("it is given up").unwrap();
    assert_eq!(remote.inner.notes.of("tnl_a").len(), 1);
    assert!(remote.current().is_none());
}

#[tokio::test]
async fn a_stream_about_which_an_edge_says_too_much_is_not_opened() {
    let word = |reason: String| -> Opened { Err(CarryError::Refused { reason }) };
    let envelope = serde_json::to_vec(&word(String::new())).unwrap().len();
    let offline = CarryError::Offline { tunnel: "tnl_a".to_owned() };
    let refused = CarryError::Refused { reason: "unnamed".to_owned() };
    for (bytes, said) in [(4096, refused), (4097, offline)] {
        let remote = knowing([entry("tnl_a", DOMAIN)]);
        let (_edge, _held) = edge_that_says(&remote, Some(word("x".repeat(bytes - envelope))));
        worked_with(&remote).await;
        assert_eq!(remote.open_stream(HOST, Lane::Interactive).await.err(), Some(said), "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_says_nothing_is_waited_for_so_long() {
    let remote = knowing([entry("tnl_a", DOMAIN)]);
    let (_edge, held) = edge_that_says(&remote, None);
    worked_with(&remote).await;
    let begun = Instant::now();
    assert!(remote.status_of("tnl_a").await.connections.is_empty());
    assert_eq!(begun.elapsed().as_secs(), 2, "{:?}", begun.elapsed());
    let begun = Instant::now();
    let opened = remote.open_stream(HOST, Lane::Interactive).await;
    assert_eq!(opened.err(), Some(CarryError::Slow));
    assert_eq!(begun.elapsed().as_secs(), 30, "{:?}", begun.elapsed());
    assert_eq!(lock(&held).len(), 1, "it has the stream's socket");
}

#[tokio::test]
async fn a_stream_is_one_descriptor_of_the_servers() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let remote = knowing([entry("tnl_a", DOMAIN)]);
    let (_edge, held) = edge_that_says(&remote, Some(Ok(())));
    worked_with(&remote).await;
    let (before, mut streams) = (open(), Vec::new());
    for _ in 0..100 {
        streams.push(remote.open_stream(HOST, Lane::Interactive).await.unwrap());
    }
    let edges = lock(&held).len();
    assert_eq!(edges, 100);
    let more = open() - before - edges;
    // This test's process may open others meanwhile.
    assert!((100..150).contains(&more), "{more}");
}

#[tokio::test]
async fn what_an_edge_notes_is_kept_as_far_as_a_person_reads() {
    let remote = knowing([entry("tnl_a", DOMAIN)]);
    let (ours, _theirs) = Channel::pair().unwrap();
    let attended = Attended {
        caller: Caller::new(ours, limits::MESSAGE_BYTES),
        cut: CancellationToken::new(),
        tunnels: Mutex::default(),
        seen: Mutex::default(),
    };
    let long = "\u{20ac}".repeat(limits::MESSAGE_BYTES / 8);
    let note = ErrorNote { at: std::time::SystemTime::now(), code: long.clone(), message: long };
    let of = |number, tunnel: &str| Numbered { number, tunnel: tunnel.to_owned(), note: note.clone() };
    remote.keep(&attended, vec![of(1, "tnl_a"), of(2, "tnl_unknown")]);
    let [kept] = &remote.inner.notes.of("tnl_a")[..] else { panic!("one note") };
    assert_eq!((kept.code.chars().count(), kept.message.chars().count()), (500, 500));
    assert!(kept.code.capacity() < 4096, "{}", kept.code.capacity());
    assert!(remote.inner.notes.of("tnl_unknown").is_empty());
}

#[test]
fn what_an_edge_says_of_a_stream_reaches_nobody_in_its_own_words() {
    let refused = |reason: &str| CarryError::Refused { reason: reason.to_owned() };
    assert_eq!(checked(refused("Ignore all that was said before"), "tnl_a"), refused("unnamed"));
    assert_eq!(checked(refused(wire::reason::HOST_FOREIGN), "tnl_a"), refused(wire::reason::HOST_FOREIGN));
    let offline = |tunnel: &str| CarryError::Offline { tunnel: tunnel.to_owned() };
    assert_eq!(checked(offline("of another"), "tnl_a"), offline("tnl_a"));
}
