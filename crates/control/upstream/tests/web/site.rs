//! A site of the test's, the names that lead to it, and the browser that may dial it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use postern_net::{Dialer, LookingUp, Resolver, TlsRoots};
use postern_policy::web::{DomainList, DomainRules};
use postern_session::{WebErrorCode, WebOrder};
use postern_tunnel::certificate;
use postern_upstream::web::{Browser, Provider, Public, Web};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What names of the test's end in.
const DOMAIN: &str = "sites.test";

/// Answers every request by its path; remembers the heads.
pub(crate) struct Site {
    pub(crate) port: u16,
    pages: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    names: Arc<Names>,
    roots: TlsRoots,
}

/// Where names lead: the first answer is used up unless it is the last.
#[derive(Debug, Default)]
struct Names(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

impl Resolver for Names {
    fn look_up<'a>(&'a self, host: &'a str, _port: u16) -> LookingUp<'a> {
        let mut names = self.0.lock().unwrap();
        let found = match names.get_mut(host) {
            Some(answers) if answers.len() > 1 => Ok(answers.remove(0)),
            Some(answers) => Ok(answers[0].clone()),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        Box::pin(async move { found })
    }
}

impl Site {
    /// One over TLS, as every name below `sites.test`.
    pub(crate) async fn new() -> Self {
        let now = SystemTime::now();
        let ca = certificate::new_ca(DOMAIN, now).unwrap();
        let leaf = certificate::new_leaf(&ca, DOMAIN, now).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test's site needs its key")]
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.expose().as_bytes()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap()];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let roots = TlsRoots::only_pem(ca.certificate_pem.as_bytes()).unwrap();
        Self::serve(Some(TlsAcceptor::from(Arc::new(config))), roots).await
    }

    /// One in the clear, as a search provider on the operator's own machine may be.
    pub(crate) async fn in_the_clear() -> Self {
        Self::serve(None, TlsRoots::default()).await
    }

    async fn serve(tls: Option<TlsAcceptor>, roots: TlsRoots) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pages, seen): (Arc<Mutex<HashMap<_, _>>>, Arc<Mutex<Vec<_>>>) = Default::default();
        let port = listener.local_addr().unwrap().port();
        let site = Self { port, pages: Arc::clone(&pages), seen: Arc::clone(&seen), names: Arc::default(), roots };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, pages, seen) = (tls.clone(), Arc::clone(&pages), Arc::clone(&seen));
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &pages, &seen).await;
                            }
                        }
                        None => answer(stream, &pages, &seen).await,
                    }
                });
            }
        });
        site.name("a", &["127.0.0.1"]);
        site
    }

    /// This name of the test's leads there, by one answer after the other.
    pub(crate) fn name(&self, name: &str, answers: &[&str]) {
        let answers = answers.iter().map(|answer| answer.split(' ').map(|ip| ip.parse().unwrap()).collect()).collect();
        self.names.0.lock().unwrap().insert(format!("{name}.{DOMAIN}"), answers);
    }

    pub(crate) fn url(&self, name: &str, path: &str) -> String {
        format!("https://{name}.{DOMAIN}:{}{path}", self.port)
    }

    pub(crate) fn page(&self, path: &str, head: &str, body: impl AsRef<[u8]>) {
        let mut answer = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n").into_bytes();
        answer.extend_from_slice(body.as_ref());
        self.pages.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// No answer ever comes.
    pub(crate) fn hang(&self, path: &str) {
        self.pages.lock().unwrap().insert(path.to_owned(), Vec::new());
    }

    pub(crate) fn redirect(&self, path: &str, to: &str) {
        self.page(path, &format!("302 Found\r\nlocation: {to}"), "");
    }

    /// One that dials public addresses and those of these ranges.
    pub(crate) fn browser(&self, allowed: &[&str], provider: Option<Provider>) -> Browser {
        Browser::new(self.public(allowed), provider)
    }

    /// Public addresses and those of these ranges.
    pub(crate) fn public(&self, allowed: &[&str]) -> Public {
        let allowed = allowed.iter().map(|range| range.parse().unwrap()).collect();
        let mut public = Public::new(allowed, self.roots.clone());
        public.dialer = Dialer::with_resolver(Arc::clone(&self.names) as Arc<dyn Resolver>);
        public
    }

    /// What becomes of fetching this, by a browser that may dial the site.
    pub(crate) async fn fetch(&self, url: &str, lists: Vec<DomainList>) -> Result<String, (WebErrorCode, String)> {
        self.fetch_by(&self.browser(&["127.0.0.1/32"], None), url, lists).await
    }

    pub(crate) async fn fetch_by(
        &self,
        browser: &Browser,
        url: &str,
        lists: Vec<DomainList>,
    ) -> Result<String, (WebErrorCode, String)> {
        let order = WebOrder::Fetch { url: url.parse().unwrap(), rules: DomainRules(lists), max_content_tokens: None };
        browser.run(order).await.map_err(|failure| (failure.code, failure.message))
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    pages: &Mutex<HashMap<String, Vec<u8>>>,
    seen: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().push(head);
    let missing = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec();
    let path = path.split('?').next().unwrap();
    let page = pages.lock().unwrap().get(path).cloned().unwrap_or(missing);
    if page.is_empty() {
        // Until the client gives up.
        while stream.read_u8().await.is_ok() {}
        return;
    }
    // A client that has read enough goes away.
    let _ = stream.write_all(&page).await;
    let _ = stream.shutdown().await;
}
