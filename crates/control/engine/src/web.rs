//! Web tools: running what the session ordered, once, and handing in what came of it.
//!
//! What may be fetched is decided elsewhere, and the call's mark is in the journal before it gets here.

use std::sync::Arc;

use postern_model::content::Block;
use postern_model::ids::{EventId, ThreadId};
use postern_session::{Input, WebErrorCode, WebFailure, WebOrder};

use crate::actor::Actor;
use crate::mcp::result;

impl Actor {
    pub(crate) fn call_web(&mut self, thread: &ThreadId, call: EventId, order: WebOrder) {
        let caller = self.caller(thread);
        let web = self.shared.surroundings.web.as_ref().map(Arc::clone);
        self.under_way(thread).mcp.run(call.clone(), async move {
            postern_danger::point!("web.before");
            let done = match &web {
                Some(web) => web.run(order).await,
                None => {
                    Err(WebFailure::new(WebErrorCode::Unavailable, "This server has no web tools. Go on without them."))
                }
            };
            postern_danger::point!("web.after");
            let is_error = done.is_err();
            let text = done.unwrap_or_else(|failure| failure.told());
            let content = result::fit(&caller, &call, vec![Block::text(text)]).await;
            Input::Called { call, content, is_error }
        });
    }
}
