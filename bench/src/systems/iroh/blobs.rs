//! iroh-blobs, with stores on disk. Neither end makes another copy: the source's store refers to the original
//! file, and the fetched file is moved out of the store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, EndpointId};
use iroh_blobs::api::blobs::{AddPathOptions, ExportMode, ExportOptions, ImportMode};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{BlobFormat, BlobsProtocol, Hash};

use crate::transfer::{TransferOffer, TransferPlan};

/// An endpoint that shares the file.
pub(crate) struct Source {
    store: FsStore,
    router: Router,
    name: String,
}

impl Source {
    pub(crate) async fn start(plan: &TransferPlan) -> Result<Self> {
        let store = FsStore::load(plan.to.join("source-store")).await.map_err(any)?;
        let endpoint = super::builder()?.bind().await?;
        let blobs = BlobsProtocol::new(&store, None);
        let router = Router::builder(endpoint).accept(iroh_blobs::ALPN, blobs).spawn();
        let name =
            plan.from.file_name().context("the file has no name")?.to_string_lossy().into_owned();
        Ok(Self { store, router, name })
    }

    /// Shares the file. Returns its hash and name.
    pub(crate) async fn share(&self, path: &Path) -> Result<String> {
        let tag = self
            .store
            .blobs()
            .add_path_with_opts(AddPathOptions {
                path: path.to_owned(),
                format: BlobFormat::Raw,
                mode: ImportMode::TryReference,
            })
            .await
            .map_err(any)?;
        Ok(format!("{} {}", tag.hash, self.name))
    }

    /// Returns the endpoint's identity and socket address.
    pub(crate) fn address(&self) -> String {
        let endpoint = self.router.endpoint();
        let at = endpoint.bound_sockets().first().map(ToString::to_string).unwrap_or_default();
        format!("{} {at}", endpoint.id())
    }
}

/// An endpoint that fetches.
pub(crate) struct Fetcher {
    store: FsStore,
    endpoint: Endpoint,
    from: EndpointAddr,
    hash: Hash,
    to: PathBuf,
}

impl Fetcher {
    pub(crate) async fn link(into: PathBuf, offer: TransferOffer) -> Result<Self> {
        let store = FsStore::load(into.join("store")).await.map_err(any)?;
        let endpoint = super::builder()?.bind().await?;
        let address = offer.addresses.first().context("no source was offered")?;
        let (id, at) = address.split_once(' ').context("the address has no id")?;
        let from =
            EndpointAddr::new(id.parse::<EndpointId>()?).with_ip_addr(at.parse::<SocketAddr>()?);
        let (hash, name) = offer.hash.split_once(' ').context("the offer has no name")?;
        Ok(Self { store, endpoint, from, hash: hash.parse().map_err(any)?, to: into.join(name) })
    }

    /// Fetches the file. Returns the number of sources, always 1.
    pub(crate) async fn fetch(&self) -> Result<usize> {
        let connection = self.endpoint.connect(self.from.clone(), iroh_blobs::ALPN).await?;
        self.store.remote().fetch(connection, self.hash).await.map_err(any)?;
        self.store
            .blobs()
            .export_with_opts(ExportOptions {
                hash: self.hash,
                mode: ExportMode::TryReference,
                target: self.to.clone(),
            })
            .await
            .map_err(any)?;
        Ok(1)
    }
}

/// Converts any error, as those of iroh-blobs have many types.
fn any(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
