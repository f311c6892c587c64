//! Skills and their versions (contract 1.10), in today's shape and in the older beta's.

use postern_model::Problem;
use postern_model::ids::SkillId;
use postern_model::page::Page;
use postern_model::problem::Kind as Why;
use postern_model::skill::{SkillVersion, VersionName, label};
use postern_store::blobs::{Blob, Writer};
use postern_store::list::page;
use postern_store::skills::{self, Holder, NewVersion, Record, Which};

use super::files::blob_body;
use super::{Deleted, list_query};
use crate::app::problem;
use crate::caller::Caller;
use crate::dispatch::Call;
use crate::multipart::{Contents, Form, Part};
use crate::reply::{Download, Reply};
use crate::skills::{Bundle, Collector, Shape};

const LIST: &str = "skills";

/// What a form holds.
struct Sent {
    bundle: Bundle,
    display_name: Option<String>,
}

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    call.finish_query()?;
    let shape = Shape::of(&call.headers);
    let (Sent { bundle, display_name }, contents) = receive(call.form()?, shape).await?;
    if let Some(before) = call.arrived(&contents).await? {
        return Ok(before);
    }
    let mut writer = begin(&call).await?;
    let created = async {
        let new = keep(&mut writer, bundle).await?;
        let mut tx = call.app.store.write().await.map_err(problem)?;
        let made = skills::create(&mut tx, &call.workspace, display_name, new, call.app.now()).await;
        let reply = shape.skill(&made.map_err(problem)?)?;
        if let Reply::Json(json) = &reply {
            call.remember_json(&mut tx, json).await?;
        }
        tx.commit().await.map_err(problem)?;
        Ok(reply)
    };
    let created = created.await;
    settle(&call, writer, created.is_ok()).await;
    call.settled(created).await
}

pub(crate) async fn add_version(mut call: Call) -> Result<Reply, Problem> {
    let id: SkillId = call.id("skill", "Skill")?;
    call.finish_query()?;
    // Before its body is read.
    let mut reader = call.app.store.read().await.map_err(problem)?;
    skills::required(&mut reader, &call.workspace, &id).await.map_err(problem)?;
    drop(reader);
    let shape = Shape::of(&call.headers);
    let (Sent { bundle, display_name }, contents) = receive(call.form()?, shape).await?;
    if let Some(before) = call.arrived(&contents).await? {
        return Ok(before);
    }
    if display_name.is_some() {
        return Err(Problem::invalid_at(shape.label(), "belongs to the skill; a version has none"));
    }
    let mut writer = begin(&call).await?;
    let added = async {
        let new = keep(&mut writer, bundle).await?;
        let mut tx = call.app.store.write().await.map_err(problem)?;
        let made = skills::add(&mut tx, &call.workspace, &id, new, call.app.now()).await.map_err(problem)?;
        let reply = shape.version(&made)?;
        if let Reply::Json(json) = &reply {
            call.remember_json(&mut tx, json).await?;
        }
        tx.commit().await.map_err(problem)?;
        Ok(reply)
    };
    let added = added.await;
    settle(&call, writer, added.is_ok()).await;
    call.settled(added).await
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id: SkillId = call.id("skill", "Skill")?;
    call.query.finish()?;
    let mut reader = call.app.store.read().await.map_err(problem)?;
    Shape::of(&call.headers).skill(&skills::required(&mut reader, &call.workspace, &id).await.map_err(problem)?)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let query = list_query(&mut call.query, LIST, 1000)?;
    let source = call.query.text("source")?;
    call.query.finish()?;
    let found = match source.as_deref() {
        None | Some("custom") => {
            let mut reader = call.app.store.read().await.map_err(problem)?;
            skills::list(&mut reader, &call.workspace, &query).await.map_err(problem)?
        }
        // There are none here.
        Some("anthropic") => Vec::new(),
        Some(_) => return Err(Problem::invalid_at("source", "must be `custom` or `anthropic`")),
    };
    let found = page(found, query.limit, LIST, |skill| (skill.created_at.as_microsecond(), skill.id.to_string()));
    Shape::of(&call.headers).skills(&found)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let id: SkillId = call.id("skill", "Skill")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    skills::delete(&mut tx, &workspace, &id).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    app.engine.sweep_soon();
    Reply::json(&Deleted { id: id.as_str(), kind: "skill_deleted" })
}

pub(crate) async fn versions(mut call: Call) -> Result<Reply, Problem> {
    let id: SkillId = call.id("skill", "Skill")?;
    let list = format!("skill_versions:{id}");
    let query = list_query(&mut call.query, &list, 1000)?;
    call.query.finish()?;
    let mut reader = call.app.store.read().await.map_err(problem)?;
    let found = skills::versions(&mut reader, &call.workspace, &id, &query).await.map_err(problem)?;
    let Page { data, next_page } = page(found, query.limit, &list, |record| (record.number, String::new()));
    let data: Vec<SkillVersion> = data.into_iter().map(|record| record.version).collect();
    Shape::of(&call.headers).versions(&Page { data, next_page })
}

pub(crate) async fn get_version(mut call: Call) -> Result<Reply, Problem> {
    call.finish_query()?;
    let latest = call.parameter("skill_version") == "latest";
    let name = if latest { None } else { Some(version_name(&call)?) };
    Shape::of(&call.headers).version(&found(&call, name.as_ref()).await?.version)
}

pub(crate) async fn content(mut call: Call) -> Result<Reply, Problem> {
    call.finish_query()?;
    let name = version_name(&call)?;
    let Record { version, archive, .. } = found(&call, Some(&name)).await?;
    let body = blob_body(call.app.store, archive.id, archive.size_bytes).map_err(problem)?;
    let filename = format!("{}.zip", version.name);
    Ok(Reply::Download(Download {
        filename,
        mime_type: "application/zip".to_owned(),
        size_bytes: archive.size_bytes,
        body,
    }))
}

pub(crate) async fn delete_version(call: Call) -> Result<Reply, Problem> {
    let (skill, name): (SkillId, _) = (call.id("skill", "Skill")?, version_name(&call)?);
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    skills::delete_version(&mut tx, &workspace, &skill, &name, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    app.engine.sweep_soon();
    Reply::json(&Deleted { id: &name.to_string(), kind: "skill_version_deleted" })
}

/// The version, by name or the newest. A worker finds those that its sessions were given, and knows of no others.
async fn found(call: &Call, name: Option<&VersionName>) -> Result<Record, Problem> {
    let skill: SkillId = call.id("skill", "Skill")?;
    let mut reader = call.app.store.read().await.map_err(problem)?;
    let which = name.map_or(Which::Latest, Which::Named);
    let found = skills::version_required(&mut reader, &call.workspace, &skill, which).await;
    let holder = match &call.caller {
        Caller::Operator(_) | Caller::ApiKey { .. } => return found.map_err(problem),
        Caller::Session(grant) => Holder::Session(&grant.session),
        Caller::Environment(grant) => Holder::Environment(&grant.environment),
        Caller::Tunnel(_) => return Err(unknown(&skill)),
    };
    // One answer, whether it is another's or nobody's.
    let found = found.map_err(problem).map_err(|refused| match refused.kind {
        Why::NotFound => unknown(&skill),
        _ => refused,
    })?;
    match skills::is_given(&mut reader, &found.version.id, holder).await.map_err(problem)? {
        true => Ok(found),
        false => Err(unknown(&skill)),
    }
}

fn unknown(skill: &SkillId) -> Problem {
    Problem::not_found(format!("Skill {skill} has no such version for this credential."))
}

fn version_name(call: &Call) -> Result<VersionName, Problem> {
    call.id("skill_version", "Skill version")
}

async fn receive(mut form: Form, shape: Shape) -> Result<(Sent, Contents), Problem> {
    let (mut collector, mut display_name) = (Collector::default(), None);
    while let Some(part) = form.next().await? {
        match part.name() {
            "files" => file(part, &mut collector).await?,
            name if name == shape.label() && display_name.is_none() => display_name = Some(label(part.text().await?)?),
            name if name == shape.label() => return Err(Problem::invalid_at(shape.label(), "was sent more than once")),
            name => {
                let name: String = name.chars().take(64).collect();
                return Err(Problem::invalid_at(&name, "is not a part of this form"));
            }
        }
    }
    Ok((Sent { bundle: collector.finish()?, display_name }, form.contents()))
}

async fn file(mut part: Part, collector: &mut Collector) -> Result<(), Problem> {
    let no_name =
        || Problem::invalid_at("files", "a part is not a file: its filename is its path, as `my-skill/SKILL.md`");
    let path = part.filename().ok_or_else(no_name)?.to_owned();
    let path = collector.begin(&path)?;
    while let Some(bytes) = part.bytes().await? {
        collector.write(&path, &bytes)?;
    }
    Ok(())
}

async fn begin(call: &Call) -> Result<Writer, Problem> {
    Writer::begin(&call.app.store, &call.workspace, call.app.limits.storage, call.app.now()).await.map_err(problem)
}

/// Stores the archive's bytes.
async fn keep(writer: &mut Writer, bundle: Bundle) -> Result<NewVersion, Problem> {
    let packed = tokio::task::spawn_blocking(move || bundle.archive().map(|archive| (bundle, archive)));
    let (bundle, archive) = packed.await.map_err(|error| {
        tracing::error!(%error, "a skill could not be packed");
        Problem::internal()
    })??;
    writer.write(&archive).await.map_err(problem)?;
    let archive: Blob = writer.finish().await.map_err(problem)?;
    Ok(NewVersion { name: bundle.name, description: bundle.description, archive })
}

/// Gives up what was not named.
async fn settle(call: &Call, writer: Writer, is_named: bool) {
    if is_named {
        return;
    }
    if let Err(error) = writer.abandon().await {
        tracing::warn!(%error, "an upload that failed is removed later");
    }
    call.app.engine.sweep_soon();
}
