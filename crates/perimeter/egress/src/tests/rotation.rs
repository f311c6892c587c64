//! A secret is replaced while requests run: none of them fails, none is sent a value that was never one, and what was a
//! secret once never comes back.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    stand::{PATIENCE, SECRET, Stand, Way, get, read_head},
    upstream::{chunked, dechunk, whole},
};

const ROUNDS: usize = 6;
const AT_ONCE: usize = 4;

/// Values of several lengths, each of characters of its own kind, so that a mixture would be none of them.
fn value(round: usize) -> String {
    if round == 0 { SECRET.to_owned() } else { format!("round-{round}-{}", "Zq7Lw8Vb3N".repeat(round)) }
}

#[tokio::test]
async fn while_a_secret_is_replaced_no_request_fails_and_none_is_sent_a_mixture() {
    let stand = Arc::new(Stand::start().await);
    // Like a service that has issued the next key before the last one ends: any former one is said back as well.
    stand.upstream.replies(move |request| {
        let echo = request.header("authorization").unwrap_or_default();
        let all: String = (0..=ROUNDS).map(|round| value(round) + " ").collect();
        vec![whole("200 OK", &[("x-echo", &echo)], format!("{echo} {all}").as_bytes())]
    });
    let answered = Arc::new(AtomicUsize::new(0));
    let finished = Arc::new(Mutex::new(false));
    let clients: Vec<_> =
        (0..AT_ONCE).map(|_| tokio::spawn(client(stand.clone(), answered.clone(), finished.clone()))).collect();
    for round in 1..=ROUNDS {
        let before = answered.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) < before + 2 * AT_ONCE {
            tokio::task::yield_now().await;
        }
        stand.custody.secrets.lock().unwrap().insert("key".to_owned(), value(round));
        // From here on the new one is used: what had begun is out by now.
        let last = super::stand::talk_anew(&stand).await;
        assert_eq!(last, format!("Bearer {}", value(round)));
    }
    *finished.lock().unwrap() = true;
    for client in clients {
        client.await.unwrap();
    }
    let sent: BTreeSet<_> = stand.upstream.received().iter().filter_map(|one| one.header("authorization")).collect();
    let values: BTreeSet<_> = (0..=ROUNDS).map(|round| format!("Bearer {}", value(round))).collect();
    assert_eq!(sent, values, "each was used, and nothing else");
}

async fn client(stand: Arc<Stand>, answered: Arc<AtomicUsize>, finished: Arc<Mutex<bool>>) {
    let bearer = format!("Bearer {}", stand.placeholder);
    while !*finished.lock().unwrap() {
        let request = get("https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]);
        let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
        assert_eq!(seen.status, 200, "{}", seen.text());
        assert!(seen.head.contains(&stand.placeholder[..12]), "{}", seen.head);
        answered.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_former_secret_of_another_length_is_scrubbed_and_the_answer_keeps_its_length() {
    let stand = Stand::start().await;
    let (longer, shorter) = (value(5), value(1));
    let said = format!("{SECRET}|{longer}|{shorter}");
    let length = said.len();
    stand
        .upstream
        .replies(move |_| vec![whole("200 OK", &[("location", &format!("/v1/x?k={said}"))], said.as_bytes())]);
    for secret in [&longer, &shorter] {
        stand.custody.secrets.lock().unwrap().insert("key".to_owned(), secret.clone());
        super::stand::talk_anew(&stand).await;
    }
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[]).await;
    let all = format!("{}{}", seen.head, seen.text());
    assert_eq!(seen.body.len(), length);
    for secret in [SECRET, &longer, &shorter] {
        assert!(!all.contains(secret), "{all}");
    }
    // What stands there for a secret of another length is no placeholder: it is refused like any other invention.
    let reflected = seen.text().split('|').next_back().unwrap().to_owned();
    let again = format!("Bearer {reflected}");
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &again)]).await;
    assert_eq!(seen.reason().as_deref(), Some("placeholder_unresolved"), "{reflected}");
}

#[tokio::test]
async fn a_secret_that_comes_while_an_answer_is_on_its_way_is_taken_out_of_its_rest() {
    let stand = Stand::start().await;
    let later = value(3);
    let [first, rest] = ["early ".to_owned(), format!("{later} late {later}")];
    let reply = {
        let mut pieces = chunked(&[], first.as_bytes(), 64);
        let (end, ended) = (pieces.pop().unwrap(), chunked(&[], rest.as_bytes(), 64));
        pieces.push(Vec::new());
        pieces.extend(ended.into_iter().skip(1).filter(|piece| *piece != end));
        pieces.push(end);
        pieces
    };
    stand.upstream.replies(move |request| match request.head.contains("/v1/long") {
        true => reply.clone(),
        false => vec![whole("200 OK", &[], b"hello")],
    });
    let stream = stand.towards(Way::Redirect, "api.test", 443).await;
    let mut stream = stand.tls(stream, "api.test").await.unwrap();
    stream.write_all(&get("https", "api.test", 443, "/v1/long", &[])).await.unwrap();
    stream.flush().await.unwrap();
    read_head(&mut stream).await;
    stand.custody.secrets.lock().unwrap().insert("key".to_owned(), later.clone());
    assert_eq!(super::stand::talk_anew(&stand).await, format!("Bearer {later}"));
    stand.upstream.gate.add_permits(1);
    let mut body = Vec::new();
    while !body.ends_with(b"0\r\n\r\n") {
        let mut piece = [0; 4096];
        let count = timeout(PATIENCE, stream.read(&mut piece)).await.expect("the rest in time").unwrap();
        assert!(count > 0, "cut short: {}", String::from_utf8_lossy(&body));
        body.extend_from_slice(&piece[..count]);
    }
    let said = String::from_utf8(dechunk(&body)).unwrap();
    assert!(said.starts_with("early ") && said.contains(" late "), "{said}");
    assert_eq!(said.len(), first.len() + rest.len());
    assert!(!said.contains(&later), "{said}");
}
