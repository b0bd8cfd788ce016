//! Slugs over the API: those of a deploy's releases, one of them as a file, and the collection of what no release needs any more.

use super::delivery::SLUG;
use super::platform::{Here, Who};
use super::{Answer, Failure, Shared, wire};
use crate::house::House;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use bytes::Bytes;
use dozen_core::admin::people::Need;
use dozen_core::ids::Version;
use dozen_engine::deploy::{DeployError, Listed};
use dozen_engine::release::archive::{self, ArchiveError};
use dozen_engine::release::collect;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// A Debian package.
const DEB: &str = "application/vnd.debian.binary-package";
/// The file goes out in pieces of so many bytes.
const PIECE: usize = 64 << 10;

/// The routes that are no deploy's.
pub(super) fn routes() -> Router<Arc<House>> {
    Router::new().route("/v1/collections", post(collect_now))
}

/// `GET /slugs`
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/slugs",
    tag = "releases",
    summary = "The slugs that releases of a deploy use",
    responses((status = 200, description = "Done", body = wire::Slugs))
))]
pub(super) async fn list(Extension(served): Shared) -> Answer<wire::Slugs> {
    let slugs = served.floor.slugs().await?.into_iter().map(wire::UsedSlug::of).collect();
    let home = served.floor.ledger.home().clone();
    let used = tokio::task::spawn_blocking(move || collect::used(&home)).await;
    let (slug_bytes, cache_bytes) = used.ok().and_then(Result::ok).unwrap_or_default();
    Ok(Json(wire::Slugs { slugs, disk: wire::Disk { slugs: slug_bytes, caches: cache_bytes } }))
}

impl wire::UsedSlug {
    fn of(Listed { slug, present }: Listed) -> Self {
        let commit = slug.releases.iter().find_map(|(.., commit)| commit.as_ref()).map(|commit| commit.record());
        let releases = slug.releases.into_iter();
        let releases = releases.map(|(deploy, version, _)| wire::SlugUse { deploy: deploy.to_string(), release: version.to_string() });
        Self {
            id: slug.id.to_string(),
            pack: slug.pack,
            size: slug.size,
            files: slug.files,
            present,
            created_at: slug.created.to_string(),
            commit,
            releases: releases.collect(),
        }
    }
}

/// `GET /slugs/{version}?format=deb`; `current` for the release that serves.
#[cfg_attr(test, utoipa::path(
    get,
    path = "/v1/apps/{app}/deploys/{deploy}/slugs/{version}",
    tag = "releases",
    summary = "The slug of a release as a file: a slug file, or a Debian package",
    params(wire::ExportQuery),
    responses((status = 200, description = "The file", content_type = "application/vnd.dozen.slug", body = Vec<u8>))
))]
pub(super) async fn export(
    Extension(served): Shared,
    Path(path): Path<Vec<(String, String)>>,
    Query(query): Query<wire::ExportQuery>,
) -> Result<Response, Failure> {
    let word = path.into_iter().find(|(name, _)| name == "version").map(|(_, value)| value).filter(|v| v != "current");
    let version: Option<Version> =
        word.map(|w| w.parse()).transpose().map_err(|e: dozen_core::ids::InvalidName| Failure::usage(e.to_string()))?;
    let deb = match query.format.as_deref() {
        None | Some("tar") => false,
        Some("deb") => true,
        Some(other) => return Err(Failure::usage(format!("a slug is written as tar or deb, and not as {other:?}"))),
    };
    let release = served.floor.exported(version).await?;
    let home = served.floor.ledger.home().clone();
    let (pieces, coming) = mpsc::channel::<Result<Bytes, ArchiveError>>(8);
    drop(tokio::task::spawn_blocking(move || {
        let gone = pieces.clone();
        let go_on = move || !gone.is_closed();
        let to = BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        let written = match deb {
            true => archive::deb(&home, &release, to, &go_on),
            false => archive::pack(&home, &release.slug, &release.deploy.app, to, &go_on).map(drop),
        };
        if let Err(e) = written {
            let _ = pieces.blocking_send(Err(e));
        }
    }));
    let mut coming = ReceiverStream::new(coming);
    // What is wrong from the beginning is told as an answer; what breaks later breaks the file off.
    let first = match coming.next().await {
        Some(Ok(first)) => first,
        Some(Err(e)) => return Err(refused(e)),
        None => Bytes::new(),
    };
    let rest = coming.map(|piece| piece.map_err(io::Error::other));
    let body = Body::from_stream(tokio_stream::once(Ok(first)).chain(rest));
    Ok(([(header::CONTENT_TYPE, if deb { DEB } else { SLUG })], body).into_response())
}

fn refused(e: ArchiveError) -> Failure {
    let status = match &e {
        ArchiveError::Io { .. } | ArchiveError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    };
    Failure::new(status, dozen_engine::chain(&e))
}

/// What is written goes to whoever asked.
struct Pieces(mpsc::Sender<Result<Bytes, ArchiveError>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `POST /v1/collections`
#[cfg_attr(test, utoipa::path(
    post,
    path = "/v1/collections",
    tag = "host",
    summary = "Remove slugs that no release needs, and caches beyond the budget",
    request_body = wire::Collect,
    responses((status = 200, description = "Done", body = wire::Collection))
))]
async fn collect_now(State(house): Here, Extension(who): Who, Json(body): Json<wire::Collect>) -> Answer<wire::Collection> {
    house.ledger.authorise(&who, "collect slugs", Need::Platform)?;
    let budget = house.settings.disk_budget;
    let done = collect::collect(&house.ledger, budget, body.dry_run).await.map_err(DeployError::from)?;
    Ok(Json(wire::Collection {
        dry_run: body.dry_run,
        slugs: done.slugs.iter().map(ToString::to_string).collect(),
        caches: done.caches,
        freed: done.freed,
        disk: wire::Disk { slugs: done.slug_bytes, caches: done.cache_bytes },
        budget,
    }))
}
