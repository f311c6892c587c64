//! What the server's web tools may reach: URLs in one canonical form, lists of domains, and the URLs that a text shows.
//! Nothing is resolved or fetched here; whether an address may be dialled is decided when the name is looked up.

mod domains;
mod found;
mod url;

pub use domains::{DomainList, DomainPattern, DomainRules, NotAllowed};
pub use found::urls_in;
pub use url::{BadWebUrl, LONGEST_URL, WebUrl};

#[cfg(test)]
mod tests;
