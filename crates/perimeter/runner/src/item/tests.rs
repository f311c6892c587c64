use tokio::sync::mpsc;

use super::*;
use crate::stand_in::saying;

/// Opens nothing.
struct Closed;

impl Perimeter for Closed {
    type Hands = ItemHands<std::convert::Infallible>;

    async fn open(&self, _facts: SessionFacts) -> Result<Self::Hands, Refused> {
        Err(workspace_gone())
    }
}

impl Hands for std::convert::Infallible {
    async fn run(&mut self, _call: &ToolCall, _ready: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        match *self {}
    }

    async fn passes(&mut self, _passage: Passage) -> Result<(), String> {
        match *self {}
    }

    async fn close(self) {
        match self {}
    }
}

fn shared(remote: Remote, places: &Arc<Places>) -> Shared<Closed> {
    Shared::new(remote, Bearer::new("key".into()), Closed, Arc::clone(places), CancellationToken::new())
}

fn item() -> WorkItem {
    let item = serde_json::json!({"id": "work_2", "data": {"type": "session", "id": "sesn_1"}, "secret": null});
    serde_json::from_value(item).expect("an item")
}

/// The place of a session whose first item is being served, with what that keeps there.
fn place_of_the_first(data: &tempfile::TempDir) -> (Arc<Places>, Place, HeldLease) {
    let places = Arc::new(Places::new(data.path()));
    let place = places.of("sesn_1").expect("made");
    let (work, handout, session) = ("work_1".to_owned(), "first".to_owned(), "sesn_1".to_owned());
    let held = HeldLease { work, handout, session, last_heartbeat: "t".to_owned(), ours: true };
    place.remember(&held).expect("written");
    place.keep_variables(&[]).expect("written");
    (places, place, held)
}

fn variables(data: &tempfile::TempDir) -> bool {
    data.path().join("perimeter/work/sesn_1/variables").exists()
}

/// A server that keeps every lease and knows no session; what it is asked, and whether variables were kept then.
fn lease_keeper(data: &Arc<tempfile::TempDir>) -> (Remote, mpsc::UnboundedReceiver<(String, bool)>) {
    let (told, asked) = mpsc::unbounded_channel();
    let data = Arc::clone(data);
    let remote = saying(move |asked, _| {
        let _over = told.send((asked.to_owned(), variables(&data)));
        let beat = br#"{"last_heartbeat":"t","lease_extended":true,"state":"active","ttl_seconds":300}"#;
        match asked {
            asked if asked.contains("heartbeat") => (200, beat.to_vec()),
            asked if asked.contains("/stop") => (200, b"{}".to_vec()),
            _ => (404, b"{}".to_vec()),
        }
    });
    (remote, asked)
}

#[tokio::test]
async fn an_item_that_never_had_its_turn_takes_nothing_of_the_one_before() {
    let data = tempfile::tempdir().expect("a directory");
    let (places, _place, held) = place_of_the_first(&data);
    let shared = shared(saying(|_, _| (412, b"{}".to_vec())), &places);
    let _first = shared.serving.turn("sesn_1").await;
    run(&shared, item(), true).await;
    assert_eq!((places.leases(), variables(&data)), (vec![held], true));
}

#[tokio::test]
async fn an_item_that_is_handed_out_again_keeps_what_came_with_it_when_its_first_time_ends() {
    let data = tempfile::tempdir().expect("a directory");
    let (places, place, held) = place_of_the_first(&data);
    let again = HeldLease { work: "work_2".to_owned(), handout: "again".to_owned(), ..held };
    let (kept, there) = (again.clone(), place.clone());
    let remote = saying(move |_, _| {
        there.keep_coming("again", Vec::new()).expect("written");
        there.remember(&kept).expect("written");
        (412, b"{}".to_vec())
    });
    let shared = shared(remote, &places);
    let _first = shared.serving.turn("sesn_1").await;
    run(&shared, item(), true).await;
    assert_eq!(places.leases(), [again]);
    place.take_coming("again").expect("written");
    assert!(!data.path().join("perimeter/work/sesn_1/coming").exists(), "it was there, and is taken");
}

#[tokio::test]
async fn an_item_whose_variables_cannot_be_kept_is_refused_and_not_served_with_another_s() {
    let data = Arc::new(tempfile::tempdir().expect("a directory"));
    let (places, ..) = place_of_the_first(&data);
    std::fs::create_dir(data.path().join("perimeter/work/sesn_1/coming.new")).expect("made");
    let (remote, mut asked) = lease_keeper(&data);
    run(&shared(remote, &places), item(), true).await;
    let (stop, _) = asked.recv().await.expect("asked");
    assert!(stop.contains("/stop"), "{stop}");
}

#[tokio::test]
async fn an_item_of_which_what_came_with_it_does_not_read_is_not_served_with_what_came_with_another() {
    let data = Arc::new(tempfile::tempdir().expect("a directory"));
    let (places, _, held) = place_of_the_first(&data);
    std::fs::write(data.path().join("perimeter/work/sesn_1/coming"), "{").expect("written");
    let (remote, mut asked) = lease_keeper(&data);
    resume(&shared(remote, &places), held).await;
    let all: Vec<_> = std::iter::from_fn(|| asked.try_recv().ok()).map(|(asked, _)| asked).collect();
    assert!(all.last().is_some_and(|last| last.contains("/stop")), "{all:?}");
    assert!(!all.iter().any(|asked| asked.contains("sessions/sesn_1")), "{all:?}");
}

#[tokio::test]
async fn an_item_whose_worker_was_killed_before_its_turn_has_what_came_with_it_when_it_is_resumed() {
    let data = Arc::new(tempfile::tempdir().expect("a directory"));
    let (places, place, held) = place_of_the_first(&data);
    place.forget_variables();
    place.keep_coming("second", Vec::new()).expect("written");
    let (remote, mut asked) = lease_keeper(&data);
    let shared = shared(remote, &places);
    resume(&shared, HeldLease { work: "work_2".to_owned(), handout: "second".to_owned(), ..held }).await;
    let all: Vec<_> = std::iter::from_fn(|| asked.try_recv().ok()).collect();
    assert!(all.iter().any(|(asked, there)| asked.contains("sessions/sesn_1") && *there), "{all:?}");
    assert!(!variables(&data) && !data.path().join("perimeter/work/sesn_1/coming").exists());
}

#[tokio::test]
async fn what_comes_with_an_item_is_kept_in_its_turn_and_goes_with_it() {
    let data = Arc::new(tempfile::tempdir().expect("a directory"));
    let (places, place, _) = place_of_the_first(&data);
    let (remote, mut asked) = lease_keeper(&data);
    let shared = Arc::new(shared(remote, &places));
    let first = shared.serving.turn("sesn_1").await;
    place.forget_variables();
    let second = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move { run(&shared, item(), true).await }
    });
    let (beat, variables_then) = asked.recv().await.expect("asked");
    assert!(beat.contains("heartbeat") && !variables_then, "{beat}: it is not its turn");
    drop(first);
    let (read, variables_then) = asked.recv().await.expect("asked");
    assert!(read.contains("sessions/sesn_1") && variables_then, "{read}: it is its turn");
    second.await.expect("it ended");
    assert_eq!((places.leases(), variables(&data)), (Vec::new(), false));
}

#[tokio::test]
async fn a_session_claimed_twice_is_served_by_one_item_at_a_time() {
    let serving = Serving::default();
    let first = serving.turn("a").await;
    assert!(tokio::time::timeout(Duration::from_millis(10), serving.turn("a")).await.is_err());
    let other = tokio::time::timeout(Duration::from_secs(5), serving.turn("b")).await;
    assert!(other.is_ok(), "another session does not wait");
    drop(first);
    assert!(tokio::time::timeout(Duration::from_secs(5), serving.turn("a")).await.is_ok());
}
