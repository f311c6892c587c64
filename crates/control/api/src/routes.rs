//! The table of routes: what exists, who may call it, which beta it belongs to (contract part 1).
//!
//! The router is made from this table and the tests walk it, so a route without a stated credential cannot exist.

use std::pin::Pin;

use postern_model::Problem;

use crate::caller::Kind;
use crate::dispatch::Call;
use crate::handlers::{
    agents, api_keys, certificates, control, credentials, deployments, environment_keys, environments, events, files,
    memories, memory_stores, memory_versions, models, outputs, perimeter_status, perimeters, resources, sessions,
    skills, threads, tunnels, vaults, webhooks, work, workspaces,
};
use crate::openapi;
use crate::reply::Reply;

/// One route.
pub struct Route {
    /// GET, POST, a POST of a form, or DELETE; updates are POST everywhere, and one is PATCH too.
    pub method: Method,
    /// The path; `{name}` stands for one segment.
    pub path: &'static str,
    /// The beta without which the route does not exist.
    pub beta: Beta,
    /// The kinds of credential that may call it.
    pub allowed: &'static [Kind],
    /// Its handler's name.
    pub name: &'static str,
    pub(crate) handler: Handler,
}

/// The methods of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Creates, changes, acts.
    Post,
    /// The same, on the wire a POST too: the body is a form that its handler reads as it arrives.
    Upload,
    /// Changes, where older clients say so.
    Patch,
    /// Removes.
    Delete,
}

/// The betas of the contract that this build serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beta {
    /// `managed-agents-2026-04-01`.
    ManagedAgents,
    /// `mcp-tunnels-2026-06-22`.
    Tunnels,
    /// `agent-memory-2026-07-22` or `managed-agents-2026-04-01`: clients send the one, the other, or both.
    Memory,
    /// No beta.
    None,
}

pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Reply, Problem>> + Send>>;
pub(crate) type Handler = fn(Call) -> Answer;

/// A family of routes that the contract has and this build has not.
pub(crate) struct Absent {
    /// Segments of the path's start; `*` stands for any one.
    segments: &'static [&'static str],
    /// What the routes are about, in the plural.
    pub(crate) noun: &'static str,
}

impl Absent {
    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut segments = path.trim_start_matches('/').split('/');
        self.segments
            .iter()
            .all(|expected| segments.next().is_some_and(|segment| *expected == "*" || *expected == segment))
    }
}

/// Whoever administers.
const OPERATOR: &[Kind] = &[Kind::Operator];
/// K of the contract.
const CLIENT: &[Kind] = &[Kind::Operator, Kind::ApiKey];
/// K, S and E.
const CLIENT_OR_WORKER: &[Kind] = &[Kind::Operator, Kind::ApiKey, Kind::EnvironmentKey, Kind::SessionToken];
/// K and S.
const CLIENT_OR_SESSION: &[Kind] = &[Kind::Operator, Kind::ApiKey, Kind::SessionToken];
/// K and E.
const CLIENT_OR_ENVIRONMENT: &[Kind] = &[Kind::Operator, Kind::ApiKey, Kind::EnvironmentKey];
/// E.
const ENVIRONMENT: &[Kind] = &[Kind::EnvironmentKey];
/// Whoever faces the server from a perimeter.
const PERIMETER: &[Kind] = &[Kind::EnvironmentKey, Kind::TunnelToken];
/// E and S.
const WORKER: &[Kind] = &[Kind::EnvironmentKey, Kind::SessionToken];
/// E and S, the latter also when its lease is over: so it learns that.
const LEASE_HOLDER: &[Kind] = &[Kind::EnvironmentKey, Kind::SessionToken, Kind::EndedSessionToken];
/// K, E and S, the latter also when its lease is over.
const CLIENT_OR_LEASE_HOLDER: &[Kind] =
    &[Kind::Operator, Kind::ApiKey, Kind::EnvironmentKey, Kind::SessionToken, Kind::EndedSessionToken];

macro_rules! routes {
    ($($method:ident $path:literal $beta:ident $allowed:ident $module:ident :: $handler:ident;)*) => {
        &[$(Route {
            method: Method::$method,
            path: $path,
            beta: Beta::$beta,
            allowed: $allowed,
            name: concat!(stringify!($module), ".", stringify!($handler)),
            handler: |call| Box::pin($module::$handler(call)),
        }),*]
    };
}

/// Every route of this build.
pub const ROUTES: &[Route] = routes! {
    Post   "/v1/agents"                                             ManagedAgents CLIENT                 agents::create;
    Get    "/v1/agents"                                             ManagedAgents CLIENT                 agents::list;
    Get    "/v1/agents/{agent}"                                     ManagedAgents CLIENT                 agents::get;
    Post   "/v1/agents/{agent}"                                     ManagedAgents CLIENT                 agents::update;
    Post   "/v1/agents/{agent}/archive"                             ManagedAgents CLIENT                 agents::archive;
    Get    "/v1/agents/{agent}/versions"                            ManagedAgents CLIENT                 agents::versions;

    Post   "/v1/environments"                                       ManagedAgents CLIENT                 environments::create;
    Get    "/v1/environments"                                       ManagedAgents CLIENT                 environments::list;
    Get    "/v1/environments/{environment}"                         ManagedAgents CLIENT                 environments::get;
    Post   "/v1/environments/{environment}"                         ManagedAgents CLIENT                 environments::update;
    Delete "/v1/environments/{environment}"                         ManagedAgents CLIENT                 environments::delete;
    Post   "/v1/environments/{environment}/archive"                 ManagedAgents CLIENT                 environments::archive;
    Post   "/v1/environments/{environment}/keys"                    ManagedAgents CLIENT                 environment_keys::create;
    Get    "/v1/environments/{environment}/keys"                    ManagedAgents CLIENT                 environment_keys::list;
    Delete "/v1/environments/{environment}/keys/{key}"              ManagedAgents CLIENT                 environment_keys::revoke;

    Get    "/v1/environments/{environment}/work/poll"               ManagedAgents ENVIRONMENT            work::poll;
    Get    "/v1/environments/{environment}/work/stats"              ManagedAgents CLIENT_OR_ENVIRONMENT  work::stats;
    Get    "/v1/environments/{environment}/work"                    ManagedAgents CLIENT_OR_ENVIRONMENT  work::list;
    Get    "/v1/environments/{environment}/work/{work}"             ManagedAgents CLIENT                 work::get;
    Post   "/v1/environments/{environment}/work/{work}"             ManagedAgents CLIENT                 work::update;
    Post   "/v1/environments/{environment}/work/{work}/ack"         ManagedAgents WORKER                 work::acknowledge;
    Post   "/v1/environments/{environment}/work/{work}/heartbeat"   ManagedAgents LEASE_HOLDER           work::heartbeat;
    Post   "/v1/environments/{environment}/work/{work}/stop"        ManagedAgents CLIENT_OR_LEASE_HOLDER work::stop;

    Post   "/v1/sessions"                                           ManagedAgents CLIENT                 sessions::create;
    Get    "/v1/sessions"                                           ManagedAgents CLIENT                 sessions::list;
    Get    "/v1/sessions/{session}"                                 ManagedAgents CLIENT_OR_WORKER       sessions::get;
    Post   "/v1/sessions/{session}"                                 ManagedAgents CLIENT                 sessions::update;
    Delete "/v1/sessions/{session}"                                 ManagedAgents CLIENT                 sessions::delete;
    Post   "/v1/sessions/{session}/archive"                         ManagedAgents CLIENT                 sessions::archive;

    Get    "/v1/sessions/{session}/events"                          ManagedAgents CLIENT_OR_WORKER       events::list;
    Post   "/v1/sessions/{session}/events"                          ManagedAgents CLIENT_OR_WORKER       events::send;
    Get    "/v1/sessions/{session}/events/stream"                   ManagedAgents CLIENT_OR_WORKER       events::stream;

    Get    "/v1/sessions/{session}/threads"                         ManagedAgents CLIENT_OR_WORKER       threads::list;
    Get    "/v1/sessions/{session}/threads/{thread}"                ManagedAgents CLIENT_OR_WORKER       threads::get;
    Post   "/v1/sessions/{session}/threads/{thread}/archive"        ManagedAgents CLIENT                 threads::archive;
    Get    "/v1/sessions/{session}/threads/{thread}/events"         ManagedAgents CLIENT_OR_WORKER       threads::events;
    Get    "/v1/sessions/{session}/threads/{thread}/stream"         ManagedAgents CLIENT_OR_WORKER       threads::stream;

    Post   "/v1/sessions/{session}/resources"                       ManagedAgents CLIENT                 resources::create;
    Get    "/v1/sessions/{session}/resources"                       ManagedAgents CLIENT                 resources::list;
    Get    "/v1/sessions/{session}/resources/{resource}"            ManagedAgents CLIENT                 resources::get;
    Post   "/v1/sessions/{session}/resources/{resource}"            ManagedAgents CLIENT                 resources::update;
    Delete "/v1/sessions/{session}/resources/{resource}"            ManagedAgents CLIENT                 resources::delete;
    Post   "/v1/sessions/{session}/resources/{resource}/failure"    ManagedAgents WORKER                 resources::fail;

    Upload "/v1/sessions/{session}/outputs"                         ManagedAgents WORKER                 outputs::create;

    Post   "/v1/sessions/{session}/freeze"                          ManagedAgents CLIENT                 perimeter_status::freeze;
    Post   "/v1/sessions/{session}/thaw"                            ManagedAgents CLIENT                 perimeter_status::thaw;
    Post   "/v1/sessions/{session}/revoke_grants"                   ManagedAgents CLIENT                 perimeter_status::revoke_grants;
    Get    "/v1/perimeter/status"                                   ManagedAgents CLIENT                 perimeter_status::status;
    Get    "/v1/perimeter/control"                                  ManagedAgents PERIMETER              control::connect;

    Post   "/v1/deployments"                                        ManagedAgents CLIENT                 deployments::create;
    Get    "/v1/deployments"                                        ManagedAgents CLIENT                 deployments::list;
    Get    "/v1/deployments/{deployment}"                           ManagedAgents CLIENT                 deployments::get;
    Post   "/v1/deployments/{deployment}"                           ManagedAgents CLIENT                 deployments::update;
    Post   "/v1/deployments/{deployment}/archive"                   ManagedAgents CLIENT                 deployments::archive;
    Post   "/v1/deployments/{deployment}/pause"                     ManagedAgents CLIENT                 deployments::pause;
    Post   "/v1/deployments/{deployment}/unpause"                   ManagedAgents CLIENT                 deployments::unpause;
    Post   "/v1/deployments/{deployment}/run"                       ManagedAgents CLIENT                 deployments::run;
    Get    "/v1/deployment_runs"                                    ManagedAgents CLIENT                 deployments::list_runs;
    Get    "/v1/deployment_runs/{run}"                              ManagedAgents CLIENT                 deployments::get_run;

    Post   "/v1/vaults"                                             ManagedAgents CLIENT                 vaults::create;
    Get    "/v1/vaults"                                             ManagedAgents CLIENT                 vaults::list;
    Get    "/v1/vaults/{vault}"                                     ManagedAgents CLIENT                 vaults::get;
    Post   "/v1/vaults/{vault}"                                     ManagedAgents CLIENT                 vaults::update;
    Delete "/v1/vaults/{vault}"                                     ManagedAgents CLIENT                 vaults::delete;
    Post   "/v1/vaults/{vault}/archive"                             ManagedAgents CLIENT                 vaults::archive;
    Post   "/v1/vaults/{vault}/credentials"                         ManagedAgents CLIENT                 credentials::create;
    Get    "/v1/vaults/{vault}/credentials"                         ManagedAgents CLIENT                 credentials::list;
    Get    "/v1/vaults/{vault}/credentials/{credential}"            ManagedAgents CLIENT                 credentials::get;
    Post   "/v1/vaults/{vault}/credentials/{credential}"            ManagedAgents CLIENT                 credentials::update;
    Delete "/v1/vaults/{vault}/credentials/{credential}"            ManagedAgents CLIENT                 credentials::delete;
    Post   "/v1/vaults/{vault}/credentials/{credential}/archive"    ManagedAgents CLIENT                 credentials::archive;
    Post   "/v1/vaults/{vault}/credentials/{credential}/mcp_oauth_validate"
                                                                    ManagedAgents CLIENT                 credentials::validate;

    Post   "/v1/memory_stores"                                      Memory        CLIENT                 memory_stores::create;
    Get    "/v1/memory_stores"                                      Memory        CLIENT                 memory_stores::list;
    Get    "/v1/memory_stores/{memory_store}"                       Memory        CLIENT                 memory_stores::get;
    Post   "/v1/memory_stores/{memory_store}"                       Memory        CLIENT                 memory_stores::update;
    Delete "/v1/memory_stores/{memory_store}"                       Memory        CLIENT                 memory_stores::delete;
    Post   "/v1/memory_stores/{memory_store}/archive"               Memory        CLIENT                 memory_stores::archive;
    Post   "/v1/memory_stores/{memory_store}/memories"              Memory        CLIENT_OR_SESSION      memories::create;
    Get    "/v1/memory_stores/{memory_store}/memories"              Memory        CLIENT_OR_SESSION      memories::list;
    Get    "/v1/memory_stores/{memory_store}/memories/{memory}"     Memory        CLIENT_OR_SESSION      memories::get;
    Post   "/v1/memory_stores/{memory_store}/memories/{memory}"     Memory        CLIENT_OR_SESSION      memories::update;
    Patch  "/v1/memory_stores/{memory_store}/memories/{memory}"     Memory        CLIENT_OR_SESSION      memories::update;
    Delete "/v1/memory_stores/{memory_store}/memories/{memory}"     Memory        CLIENT_OR_SESSION      memories::delete;
    Get    "/v1/memory_stores/{memory_store}/memory_versions"       Memory        CLIENT                 memory_versions::list;
    Get    "/v1/memory_stores/{memory_store}/memory_versions/{memory_version}"
                                                                    Memory        CLIENT                 memory_versions::get;
    Post   "/v1/memory_stores/{memory_store}/memory_versions/{memory_version}/redact"
                                                                    Memory        CLIENT                 memory_versions::redact;

    Post   "/v1/tunnels"                                            Tunnels       CLIENT                 tunnels::create;
    Get    "/v1/tunnels"                                            Tunnels       CLIENT                 tunnels::list;
    Get    "/v1/tunnels/{tunnel}"                                   Tunnels       CLIENT                 tunnels::get;
    Post   "/v1/tunnels/{tunnel}/archive"                           Tunnels       CLIENT                 tunnels::archive;
    Post   "/v1/tunnels/{tunnel}/reveal_token"                      Tunnels       CLIENT                 tunnels::reveal_token;
    Post   "/v1/tunnels/{tunnel}/rotate_token"                      Tunnels       CLIENT                 tunnels::rotate_token;
    Post   "/v1/tunnels/{tunnel}/revoke_token"                      Tunnels       CLIENT                 tunnels::revoke_token;
    Get    "/v1/tunnels/{tunnel}/status"                            Tunnels       CLIENT                 tunnels::status;
    Post   "/v1/tunnels/{tunnel}/probe"                             Tunnels       CLIENT                 tunnels::probe;
    Post   "/v1/tunnels/{tunnel}/certificates"                      Tunnels       CLIENT                 certificates::create;
    Get    "/v1/tunnels/{tunnel}/certificates"                      Tunnels       CLIENT                 certificates::list;
    Get    "/v1/tunnels/{tunnel}/certificates/{certificate}"        Tunnels       CLIENT                 certificates::get;
    Post   "/v1/tunnels/{tunnel}/certificates/{certificate}/archive" Tunnels      CLIENT                 certificates::archive;

    Post   "/v1/perimeters"                                         ManagedAgents OPERATOR               perimeters::create;
    Get    "/v1/perimeters"                                         ManagedAgents CLIENT                 perimeters::list;
    Delete "/v1/perimeters/{perimeter}"                             ManagedAgents OPERATOR               perimeters::delete;
    Post   "/v1/perimeters/{perimeter}/rewrap"                      ManagedAgents OPERATOR               perimeters::rewrap;

    Post   "/v1/webhooks"                                           ManagedAgents CLIENT                 webhooks::create;
    Get    "/v1/webhooks"                                           ManagedAgents CLIENT                 webhooks::list;
    Get    "/v1/webhooks/{webhook}"                                 ManagedAgents CLIENT                 webhooks::get;
    Post   "/v1/webhooks/{webhook}"                                 ManagedAgents CLIENT                 webhooks::update;
    Delete "/v1/webhooks/{webhook}"                                 ManagedAgents CLIENT                 webhooks::delete;
    Post   "/v1/webhooks/{webhook}/rotate_secret"                   ManagedAgents CLIENT                 webhooks::rotate_secret;
    Post   "/v1/webhooks/{webhook}/replay_dead"                     ManagedAgents CLIENT                 webhooks::replay_dead;
    Get    "/v1/webhooks/{webhook}/deliveries"                      ManagedAgents CLIENT                 webhooks::deliveries;
    Get    "/v1/webhooks/{webhook}/deliveries/{event}"              ManagedAgents CLIENT                 webhooks::delivery;
    Post   "/v1/webhooks/{webhook}/deliveries/{event}/replay"       ManagedAgents CLIENT                 webhooks::replay;

    Upload "/v1/files"                                              None          CLIENT                 files::create;
    Get    "/v1/files"                                              None          CLIENT                 files::list;
    Get    "/v1/files/{file}"                                       None          CLIENT                 files::get;
    Get    "/v1/files/{file}/content"                               None          CLIENT_OR_WORKER       files::content;
    Delete "/v1/files/{file}"                                       None          CLIENT                 files::delete;

    Upload "/v1/skills"                                             None          CLIENT                 skills::create;
    Get    "/v1/skills"                                             None          CLIENT                 skills::list;
    Get    "/v1/skills/{skill}"                                     None          CLIENT                 skills::get;
    Delete "/v1/skills/{skill}"                                     None          CLIENT                 skills::delete;
    Upload "/v1/skills/{skill}/versions"                            None          CLIENT                 skills::add_version;
    Get    "/v1/skills/{skill}/versions"                            None          CLIENT                 skills::versions;
    Get    "/v1/skills/{skill}/versions/{skill_version}"            None          CLIENT_OR_WORKER       skills::get_version;
    Delete "/v1/skills/{skill}/versions/{skill_version}"            None          CLIENT                 skills::delete_version;
    Get    "/v1/skills/{skill}/versions/{skill_version}/content"    None          CLIENT_OR_WORKER       skills::content;

    Get    "/v1/models"                                             None          CLIENT                 models::list;
    Get    "/v1/models/{model}"                                     None          CLIENT                 models::get;

    Post   "/v1/workspaces"                                         ManagedAgents OPERATOR               workspaces::create;
    Get    "/v1/workspaces"                                         ManagedAgents OPERATOR               workspaces::list;
    Get    "/v1/workspaces/{workspace}"                             ManagedAgents OPERATOR               workspaces::get;
    Post   "/v1/workspaces/{workspace}"                             ManagedAgents OPERATOR               workspaces::update;
    Delete "/v1/workspaces/{workspace}"                             ManagedAgents OPERATOR               workspaces::erase;

    Get    "/openapi.json"                                          None          CLIENT                 openapi::document;

    Post   "/v1/api_keys"                                           ManagedAgents OPERATOR               api_keys::create;
    Get    "/v1/api_keys"                                           ManagedAgents OPERATOR               api_keys::list;
    Delete "/v1/api_keys/{key}"                                     ManagedAgents OPERATOR               api_keys::revoke;
};

/// Families of the contract that this build has not: they answer so instead of looking mistyped.
pub(crate) const NOT_IN_THIS_BUILD: &[Absent] = &[
    Absent { segments: &["v1", "organizations"], noun: "Organisation routes" },
    Absent { segments: &["v1", "user_profiles"], noun: "User profiles" },
    Absent { segments: &["v1", "dreams"], noun: "Dreams" },
    Absent { segments: &["v1", "messages"], noun: "Direct model requests" },
];
