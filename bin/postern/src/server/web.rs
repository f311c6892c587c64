//! The server's web tools, from `[web]` of the configuration.

use std::sync::Arc;

use ipnet::IpNet;
use postern_exec::WireBytes;
use postern_model::tool::Builtin;
use postern_model::tool::web::WebTools;
use postern_net::{HttpClient, TlsRoots};
use postern_policy::deployment::{self, SearchKind};
use postern_policy::{Endpoint, configured};
use postern_upstream::web::{Browser, Provider, ProviderKind, Public, Web};
use serde::{Deserialize, Serialize};

use super::secret;
use crate::failure::{Failure, Or};
use crate::secret_file;

/// What the role is told of them.
#[derive(Serialize, Deserialize)]
pub(crate) struct WebConfiguration {
    /// Whether pages are fetched.
    fetch: bool,
    /// Special ranges in which pages may lie all the same.
    addresses: Vec<IpNet>,
    /// Whom to ask for searches.
    search: Option<SearchConfiguration>,
}

#[derive(Serialize, Deserialize)]
struct SearchConfiguration {
    kind: SearchKind,
    url: String,
    key: Option<WireBytes>,
}

impl WebConfiguration {
    /// Reads the provider's key, before the role gives up reading files.
    ///
    /// # Errors
    /// The file cannot be read, is not closed to others, or is empty.
    pub(crate) fn read(section: &deployment::Web) -> Result<Self, Failure> {
        let search = section.search.as_ref().map(|search| {
            let key = match &search.key_file {
                Some(file) => Some(WireBytes::new(secret_file::key(file)?.into_bytes())),
                None => None,
            };
            Ok(SearchConfiguration { kind: search.kind, url: search.url.to_string(), key })
        });
        Ok(Self { fetch: section.fetch, addresses: section.addresses.clone(), search: search.transpose()? })
    }

    /// Which of the tools the server has.
    pub(super) fn tools(&self) -> WebTools {
        let tools = if self.fetch { WebTools::None.with(Builtin::WebFetch) } else { WebTools::None };
        match self.search {
            Some(_) => tools.with(Builtin::WebSearch),
            None => tools,
        }
    }

    /// What runs them. The provider's key is taken out.
    pub(super) fn browser(&mut self, roots: &TlsRoots) -> Result<Arc<dyn Web>, Failure> {
        let provider = match &mut self.search {
            Some(search) => {
                let endpoint: Endpoint = search.url.parse().or_misused("read the search provider's URL")?;
                let http =
                    HttpClient::new(configured(&endpoint), roots).or_misused("prepare the search provider's client")?;
                let kind = match search.kind {
                    SearchKind::Searxng => ProviderKind::Searxng,
                    SearchKind::Brave => ProviderKind::Brave,
                };
                Some(Provider::new(kind, http, search.key.take().map(secret)))
            }
            None => None,
        };
        Ok(Arc::new(Browser::new(Public::new(self.addresses.clone(), roots.clone()), provider)))
    }
}
