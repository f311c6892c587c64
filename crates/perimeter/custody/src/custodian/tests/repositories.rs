//! Tokens of repositories: opened for their own session and URL where the zone takes them, and what becomes of them while a session runs.

use postern_secret::seal::{Binding, Places, Recipient, SealedCredential, SealedVariable, seal};

use super::*;
use crate::message::{Withheld, WithheldCode};

const TOKEN: &str = "ghp-first-3b1f9d7c5a2e";
const ROTATED: &str = "ghp-second-90ac4e17d6b8-longer";
const URL: &str = "https://git.example/team/ledger";
const NAME: &str = "repository:sesrsc_1";

fn with_repositories() -> Fixture {
    let added = "[[zone.ledger.egress]]\nhost = \"git.example\"\nrepositories = true\n\n[[zone.ledger.egress]]\nhost = \"plain.example\"\n\n";
    fixture_of(&CONFIGURATION.replacen("[[zone.ledger.mcp]]", &format!("{added}[[zone.ledger.mcp]]"), 1))
}

fn binding(session: &str, url: &str) -> Binding {
    let host = url.trim_start_matches("https://").split('/').next().unwrap();
    Binding::of_repository("wrkspc_default", session, "sesrsc_1", host, url)
}

fn sealed(fixture: &Fixture, binding: Binding, value: &str) -> SealedVariable {
    let to = [Recipient { perimeter_id: "pmtr_1".to_owned(), public_key: fixture.public_key.clone() }];
    let sealed = seal(&Secret::new(value.as_bytes().to_vec()), &binding, &to).unwrap();
    // What stands beside the seal is the server's word, and says more than the seal.
    let (hosts, places) = (vec!["*".to_owned()], Places { body: true, header: true });
    SealedVariable { credential: SealedCredential { binding, sealed }, hosts, places }
}

async fn open(fixture: &Fixture, session: &str, tokens: Vec<SealedVariable>) -> Opened {
    let open = OpenSession { variables: tokens, ..fixture.ask(session) };
    fixture.custodian.open(CallerKind::Worker, open).await.unwrap()
}

async fn refresh(fixture: &Fixture, tokens: Vec<SealedVariable>) -> Vec<Withheld> {
    fixture.custodian.refresh(CallerKind::Worker, "sesn_1", tokens).await.unwrap()
}

#[tokio::test]
async fn a_token_has_a_placeholder_no_variable_and_the_url_that_it_was_sealed_for() {
    let fixture = with_repositories();
    let opened = open(&fixture, "sesn_1", vec![sealed(&fixture, binding("sesn_1", URL), TOKEN)]).await;
    assert_eq!(opened.withheld, []);
    let issued = opened.issued.iter().find(|issued| issued.credential == NAME).unwrap();
    assert_eq!((&issued.env, issued.placeholder.as_str().len()), (&None, TOKEN.len()));
    assert_eq!(issued.repository.as_ref().unwrap().url().to_string(), URL);
    let grant = fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap();
    assert_eq!(text(&grant.secret), TOKEN);
    let vault = grant.vault.unwrap();
    assert_eq!(vault.repository.unwrap().url().to_string(), URL);
    assert_eq!(
        (vault.reach.hosts, vault.reach.header, vault.reach.body),
        (vec!["git.example".to_owned()], true, false)
    );
    let used = fixture.recorder.records().pop().unwrap();
    assert_eq!((used.kind, used.credential.as_deref()), (Kind::CredentialUse, Some(NAME)));
    assert_eq!(used.outcome.as_deref(), Some("the token of resource sesrsc_1"));
}

#[tokio::test]
async fn what_is_not_given_is_said_each_with_its_reason_and_the_next_step() {
    let fixture = with_repositories();
    let edited = |url: &str| {
        let mut edited = sealed(&fixture, binding("sesn_1", "https://git.example/team/other"), TOKEN);
        edited.credential.binding.mcp_url = Some(url.to_owned());
        edited
    };
    let moved = {
        let mut moved = sealed(&fixture, binding("sesn_2", URL), TOKEN);
        moved.credential.binding.vault = "sesn_1".to_owned();
        moved
    };
    let of = |session: &str, url: &str| sealed(&fixture, binding(session, url), TOKEN);
    use WithheldCode::{NotNamed, Unusable};
    for (what, token, code, step) in [
        ("another session's", of("sesn_2", URL), Unusable, "another session"),
        ("another session's, moved", moved, Unusable, "was changed or moved"),
        ("another repository's, edited", edited(URL), Unusable, "was changed or moved"),
        ("of no URL", edited("http://git.example/x"), Unusable, "no URL"),
        ("a host that takes none", of("sesn_1", "https://plain.example/x"), NotNamed, "repositories = true"),
        ("a host that no rule names", of("sesn_1", "https://evil.example/x"), NotNamed, "repositories = true"),
        ("another port", of("sesn_1", "https://git.example:8443/x"), NotNamed, "port 8443"),
        ("a weak one", sealed(&fixture, binding("sesn_1", URL), "aaaaaaaaaaaaaaaaaaaa"), Unusable, "too weak"),
    ] {
        let opened = open(&fixture, "sesn_1", vec![token]).await;
        assert!(opened.issued.iter().all(|issued| issued.credential != NAME), "{what}");
        let [withheld] = &opened.withheld[..] else { panic!("{what}: {:?}", opened.withheld) };
        assert_eq!(withheld.code, code, "{what}: {}", withheld.message);
        assert!(
            withheld.message.contains(step) && withheld.message.contains("Next step"),
            "{what}: {}",
            withheld.message
        );
        let refusal = fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::SourceMissing, "{what}");
        fixture.custodian.close(CallerKind::Worker, "sesn_1").await.unwrap();
    }
}

#[tokio::test]
async fn a_token_of_one_session_is_granted_to_no_other() {
    let fixture = with_repositories();
    open(&fixture, "sesn_1", vec![sealed(&fixture, binding("sesn_1", URL), TOKEN)]).await;
    open(&fixture, "sesn_2", vec![sealed(&fixture, binding("sesn_1", URL), TOKEN)]).await;
    assert!(fixture.asked("sesn_1", NAME, Purpose::Inject).await.is_ok());
    assert!(fixture.asked("sesn_2", NAME, Purpose::Inject).await.is_err());
}

#[tokio::test]
async fn a_rotated_token_is_used_from_the_next_use_on_and_one_taken_away_no_more() {
    let fixture = with_repositories();
    let token = |value: &str| vec![sealed(&fixture, binding("sesn_1", URL), value)];
    open(&fixture, "sesn_1", token(TOKEN)).await;
    assert_eq!(text(&fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap().secret), TOKEN);
    assert_eq!(refresh(&fixture, token(ROTATED)).await, []);
    assert_eq!(text(&fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap().secret), ROTATED);
    assert_eq!(refresh(&fixture, Vec::new()).await, []);
    let refusal = fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::SourceMissing);
    assert!(refusal.next_step.contains("send one to its resource"), "{}", refusal.next_step);
}
