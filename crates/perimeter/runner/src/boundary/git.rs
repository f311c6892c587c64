//! How git in a sandbox comes to use the token of a repository: its placeholder stands in git's configuration, for the repository's URL and no other. In
//! variables and not in a file: a placeholder counts as long as the session is open here, and the next time another one stands in its place.

use std::cmp::Reverse;
use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_custody::Issued;
use postern_secret::Placeholder;

/// The user name that goes with a token. GitHub asks for this one, and other hosts look at the token alone.
const USER: &str = "x-access-token";

/// The variables that configure git (git-config(1), `GIT_CONFIG_COUNT`); none without a repository that has a token.
pub(super) fn variables(issued: &[Issued]) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let tokens = issued.iter().filter_map(|issued| Some((issued.repository.as_ref()?.url(), &issued.placeholder)));
    let mut tokens: Vec<(String, &Placeholder)> = tokens.map(|(url, of)| (url.to_string(), of)).collect();
    // Git takes every header whose URL covers the remote's at least as closely as those before it: the closest first, and one for each URL, or
    // two headers would leave with one request.
    tokens.sort_by_key(|(url, _)| Reverse(url.len()));
    let mut told = HashSet::new();
    tokens.retain(|(url, _)| told.insert(url.clone()));
    for (number, (url, placeholder)) in tokens.into_iter().enumerate() {
        let pair = STANDARD.encode(format!("{USER}:{}", placeholder.as_str()));
        variables.push((format!("GIT_CONFIG_KEY_{number}"), format!("http.{url}.extraHeader")));
        variables.push((format!("GIT_CONFIG_VALUE_{number}"), format!("Authorization: Basic {pair}")));
    }
    let count = variables.len() / 2;
    variables.extend((count > 0).then(|| ("GIT_CONFIG_COUNT".to_owned(), count.to_string())));
    variables
}

#[cfg(test)]
mod tests {
    use postern_policy::RepositoryToken;

    use super::*;

    #[test]
    fn git_is_told_of_each_token_once_for_its_own_url_the_closest_first() {
        let issue = |credential: &str, repository: Option<&str>| Issued {
            credential: credential.to_owned(),
            env: None,
            placeholder: Placeholder::from_issued(format!("pstn_0123456789-of-{credential}")),
            repository: repository.map(|url| RepositoryToken::new("sesrsc_1", url.parse().unwrap())),
        };
        assert_eq!(variables(&[issue("key", None)]), []);
        let issued = [
            issue("a", Some("https://git.example/a")),
            issue("key", None),
            issue("b", Some("https://git.example/a/b.git")),
            issue("again", Some("https://git.example/a")),
        ];
        let basic = |of: &str| {
            let pair = STANDARD.encode(format!("x-access-token:pstn_0123456789-of-{of}"));
            format!("Authorization: Basic {pair}")
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            variables(&issued),
            [
                pair("GIT_CONFIG_KEY_0", "http.https://git.example/a/b.git.extraHeader"),
                pair("GIT_CONFIG_VALUE_0", &basic("b")),
                pair("GIT_CONFIG_KEY_1", "http.https://git.example/a.extraHeader"),
                pair("GIT_CONFIG_VALUE_1", &basic("a")),
                pair("GIT_CONFIG_COUNT", "2"),
            ]
        );
    }
}
