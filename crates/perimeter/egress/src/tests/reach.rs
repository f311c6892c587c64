//! A vault's credential goes as far as zone and vault both say: what the vault does not allow is refused before custody is asked for it.

use postern_custody::VaultGrant;
use postern_policy::{Reach, Reason, RepositoryToken};

use super::stand::{Stand, Way, get};

async fn stand(hosts: &[&str], header: bool) -> Stand {
    let stand = Stand::start().await;
    let reach = Reach { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), header, body: true };
    let vault = VaultGrant { credential: "vcrd_1".to_owned(), reach, repository: None };
    stand.custody.vault.lock().unwrap().insert("key".to_owned(), vault);
    stand
}

async fn talk(stand: &Stand, headers: &[(&str, &str)]) -> (u16, Option<String>) {
    let seen =
        stand.send(Way::Redirect, "https", "api.test", 443, &get("https", "api.test", 443, "/v1/x", headers)).await;
    (seen.status, seen.reason())
}

#[tokio::test]
async fn a_vault_credential_goes_only_where_its_vault_lets_it_too() {
    let wrong_host = Some(Reason::PlaceholderWrongHost.code().to_owned());
    let wrong_place = Some(Reason::PlaceholderWrongLocation.code().to_owned());
    for (hosts, header, expected) in [
        (&["*"][..], true, (200, None)),
        (&["*.test"], true, (403, wrong_host.clone())),
        (&["other.test", "api.test"], true, (200, None)),
        (&["other.test"], true, (403, wrong_host.clone())),
        (&[], true, (403, wrong_host)),
        (&["api.test"], false, (403, wrong_place)),
    ] {
        let stand = stand(hosts, header).await;
        let bearer = format!("Bearer {}", stand.placeholder);
        assert_eq!(talk(&stand, &[("authorization", &bearer)]).await, expected, "{hosts:?} {header}");
        let sent = usize::from(expected.0 == 200);
        assert_eq!(stand.upstream.received().len(), sent, "{hosts:?}: what is refused goes nowhere");
        let asked = stand.custody.granted.lock().unwrap().len();
        assert_eq!(talk(&stand, &[("authorization", &bearer)]).await, expected, "{hosts:?} {header} again");
        let again = stand.custody.granted.lock().unwrap().len();
        assert_eq!(again - asked, sent, "{hosts:?}: what is refused anyway is not asked for");
        assert_eq!(talk(&stand, &[]).await.0, 200, "without the placeholder the zone decides alone");
    }
}

#[tokio::test]
async fn a_repository_s_token_goes_to_the_url_that_it_was_sealed_for_whatever_else_is_said() {
    for (url, path, expected) in [
        ("https://api.test/v1/x", "/v1/x/info/refs", Ok(())),
        ("https://api.test/v1/x", "/v1/x", Err(Reason::PathNotAllowed)),
        ("https://api.test/v1/x", "/v1/y/info/refs", Err(Reason::PathNotAllowed)),
        ("https://other.test/v1/x", "/v1/x/info/refs", Err(Reason::PlaceholderWrongHost)),
        ("https://api.test:8443/v1/x", "/v1/x/info/refs", Err(Reason::PlaceholderWrongPort)),
    ] {
        let stand = stand(&["api.test"], true).await;
        let token = RepositoryToken::new("sesrsc_1", url.parse().unwrap());
        stand.custody.vault.lock().unwrap().get_mut("key").unwrap().repository = Some(token);
        let bearer = format!("Bearer {}", stand.placeholder);
        let asked = get("https", "api.test", 443, path, &[("authorization", &bearer)]);
        let seen = stand.send(Way::Redirect, "https", "api.test", 443, &asked).await;
        let reason = seen.reason();
        assert_eq!(reason.map_or(Ok(()), Err), expected.map_err(|reason| reason.code().to_owned()), "{url} {path}");
        assert_eq!(stand.upstream.received().len(), usize::from(expected.is_ok()), "{url} {path}");
    }
}

#[tokio::test]
async fn what_a_vault_narrows_while_a_session_runs_counts_from_the_next_grant_on() {
    let stand = stand(&["api.test"], true).await;
    let bearer = format!("Bearer {}", stand.placeholder);
    assert_eq!(talk(&stand, &[("authorization", &bearer)]).await.0, 200);
    stand.custody.vault.lock().unwrap().get_mut("key").unwrap().reach.hosts = vec!["other.test".to_owned()];
    let refused = talk(&stand, &[("authorization", &bearer)]).await;
    assert_eq!(refused, (403, Some(Reason::PlaceholderWrongHost.code().to_owned())));
    assert_eq!(stand.upstream.received().len(), 1);
}
