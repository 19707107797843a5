//! How registries are spoken to, whatever is asked of them: credentials, TLS, deadlines; and what their answers mean.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
pub(crate) use tenon_api::message::chain;
use tenon_api::module::RegistryTls;
use tenon_api::reasons;
use tenon_image::keyring::{Keyring, SecretFormat};
use tenon_image::registry::{Registry, RegistryError, Timing, TlsSettings, Transport};
use tenon_image::{ImageReference, Retry};
use tenon_plan::provision::Finding;
use tokio::runtime::Handle;

use crate::args::RegistrySettings;
use crate::metrics::RegistryOutcome;
use crate::mirrors::{self, Mirror};
use crate::run::Context;

/// A silent registry should show in the status while its user still looks, not a minute later.
pub(crate) const TIMING: Timing = Timing {
    manifest: Duration::from_secs(15),
    blob: Duration::from_mins(20),
    pause: Duration::from_millis(250),
    attempts: 4,
};

/// Runs what asks registries on a thread of its own.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl AsyncFnOnce() -> T + Send + 'static,
) -> Result<T, Finding> {
    let runtime = Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work()));
    done.await.map_err(|error| failed(reasons::DEPOT_FAILED, &error))
}

/// A pull secret's credentials; `field` names it in messages. Secrets are read by name when needed, and never watched or
/// kept.
pub(crate) async fn keyring(
    context: &Context,
    namespace: &str,
    secret: Option<&str>,
    field: &str,
) -> Result<Keyring, Finding> {
    let mut keyring = Keyring::default();
    let Some(name) = secret else { return Ok(keyring) };
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let waiting =
        |reason, message| Finding::Missing { reason, message, needs_change: false, retry_after: None };
    let secret = match secrets.get_opt(name).await {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            let message = format!("Secret {namespace}/{name} ({field}) does not exist; create it");
            return Err(waiting(reasons::SECRET_MISSING, message));
        }
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let message = format!(
                "Secret {namespace}/{name} ({field}) cannot be read: {}; bind ClusterRole tenon-operator-secrets to the \
                 operator in this namespace",
                status.message
            );
            return Err(waiting(reasons::SECRET_MISSING, message));
        }
        Err(error) => {
            let message = format!("Secret {namespace}/{name} ({field}) cannot be read: {}", chain(&error));
            return Err(waiting(reasons::SECRET_MISSING, message));
        }
    };
    let data = secret.data.unwrap_or_default();
    let formats = [SecretFormat::DockerConfigJson, SecretFormat::DockerCfg];
    let present: Vec<_> =
        formats.into_iter().filter_map(|format| Some((format, data.get(format.data_key())?))).collect();
    if present.is_empty() {
        let message = format!(
            "Secret {namespace}/{name} ({field}) has neither .dockerconfigjson nor .dockercfg; make it of type kubernetes.io/dockerconfigjson"
        );
        return Err(waiting(reasons::SECRET_MALFORMED, message));
    }
    for (format, bytes) in present {
        keyring.add(format, &bytes.0).map_err(|error| {
            waiting(reasons::SECRET_MALFORMED, format!("Secret {namespace}/{name}: {}", chain(&error)))
        })?;
    }
    Ok(keyring)
}

/// How an image's registry is spoken to: what was asked for beside what the operator was started with.
pub(crate) async fn tls(
    context: &Context,
    reference: &ImageReference,
    asked: RegistryTls,
) -> Result<TlsSettings, Finding> {
    let known = context.args.registries.iter().find(|settings| settings.host == reference.registry());
    let authority = match known.and_then(|settings| settings.ca_file.as_deref()) {
        None => None,
        Some(path) => Some(tokio::fs::read(path).await.map_err(|error| Finding::Missing {
            reason: reasons::REGISTRY_UNREACHABLE,
            message: format!("the operator's --registry ca-file {} cannot be read: {error}", path.display()),
            needs_change: false,
            retry_after: None,
        })?),
    };
    let set = |flag: fn(&RegistrySettings) -> bool| known.is_some_and(flag);
    Ok(TlsSettings {
        plain_http: asked.insecure || set(|settings| settings.plain_http),
        skip_verify: asked.insecure_skip_tls_verify || set(|settings| settings.insecure_skip_verify),
        authority,
    })
}

/// What was found, and where.
#[derive(Debug)]
pub(crate) struct Found<T> {
    /// What the registry said.
    pub(crate) answer: T,
    /// Who said it.
    pub(crate) registry: Registry,
    /// The image's name there: at a mirror, perhaps.
    pub(crate) place: ImageReference,
    /// How the registry is spoken to.
    pub(crate) tls: TlsSettings,
}

/// Why nothing was found.
#[derive(Debug)]
pub(crate) enum Unfound {
    /// It was not even asked.
    Unasked(Finding),
    /// What the last place said.
    Said(RegistryError),
}

impl Unfound {
    /// As a finding, with what to do where the image is absent or access to it denied.
    pub(crate) fn finding(self, if_absent: &str, if_denied: &str) -> Finding {
        match self {
            Self::Unasked(finding) => finding,
            Self::Said(error) => missing(&error, if_absent, if_denied),
        }
    }
}

/// Asks a registry about an image, and these mirrors before it. What was `asked` for goes for the registry itself, not for mirrors.
pub(crate) async fn ask<T>(
    context: &Context,
    transport: &Transport,
    keyring: &Keyring,
    (image, asked): (&ImageReference, RegistryTls),
    mirrors: &[Mirror],
    question: impl AsyncFn(&Registry, &ImageReference) -> Result<T, RegistryError>,
) -> Result<Found<T>, Unfound> {
    let (mut place, others) = mirrors::places(mirrors, image);
    let mut others = others.into_iter();
    loop {
        let asked = if place == *image { asked } else { RegistryTls::default() };
        match (ask_one(context, transport, keyring, (&place, asked), &question).await, others.next()) {
            (Err(_), Some(next)) => place = next,
            (answer, _) => return answer,
        }
    }
}

async fn ask_one<T>(
    context: &Context,
    transport: &Transport,
    keyring: &Keyring,
    (place, asked): (&ImageReference, RegistryTls),
    question: &impl AsyncFn(&Registry, &ImageReference) -> Result<T, RegistryError>,
) -> Result<Found<T>, Unfound> {
    let tls = tls(context, place, asked).await.map_err(Unfound::Unasked)?;
    let registry = Registry::new(transport, &tls, keyring.clone(), TIMING)
        .map_err(|error| Unfound::Unasked(failed(reasons::REGISTRY_UNREACHABLE, &error)))?;
    let answer = question(&registry, place).await;
    context.metrics.asked_registry(answer.as_ref().err().map_or(RegistryOutcome::Ok, outcome));
    let answer = answer.map_err(Unfound::Said)?;
    Ok(Found { answer, registry, place: place.clone(), tls })
}

/// A registry's failure, as it is counted.
fn outcome(error: &RegistryError) -> RegistryOutcome {
    match error {
        RegistryError::Absent(_) | RegistryError::Platform { .. } => RegistryOutcome::Absent,
        RegistryError::Denied { .. } => RegistryOutcome::Denied,
        RegistryError::Unreachable { retry_after: Some(_), .. } => RegistryOutcome::Throttled,
        RegistryError::Unreachable { .. } | RegistryError::Invalid { .. } | RegistryError::Disk { .. } => {
            RegistryOutcome::Failed
        }
    }
}

/// A registry's failure as a finding, with what to do where the image is absent or access to it denied.
pub(crate) fn missing(error: &RegistryError, if_absent: &str, if_denied: &str) -> Finding {
    let reason = match error {
        RegistryError::Absent(_) | RegistryError::Platform { .. } => reasons::IMAGE_ABSENT,
        RegistryError::Denied { .. } => reasons::REGISTRY_DENIED,
        RegistryError::Unreachable { .. } => reasons::REGISTRY_UNREACHABLE,
        RegistryError::Invalid { .. } => reasons::IMAGE_INVALID,
        RegistryError::Disk { .. } => return depot_failed(error),
    };
    let hint = match error {
        RegistryError::Absent(_) => format!("; {if_absent}"),
        RegistryError::Denied { .. } => format!("; {if_denied}"),
        _ => String::new(),
    };
    let retry_after = match error.retry() {
        Retry::Later(after) => after,
        Retry::AfterChange => None,
    };
    // An image for other machines is there, and will not become another by itself.
    let needs_change = matches!(error, RegistryError::Invalid { .. } | RegistryError::Platform { .. });
    Finding::Missing { reason, message: format!("{}{hint}", chain(error)), needs_change, retry_after }
}

/// What the operator's own disk did, in a word: that it is full is told from everything else, for it has a way out.
pub(crate) fn depot_trouble(error: &(dyn Error + 'static)) -> &'static str {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return reasons::DEPOT_FULL;
        }
        // An io::Error does not count what it wraps as its source.
        let wrapped = io.and_then(io::Error::get_ref).map(|wrapped| wrapped as &(dyn Error + 'static));
        next = wrapped.or_else(|| error.source());
    }
    reasons::DEPOT_FAILED
}

/// A failure of the operator's own disk.
pub(crate) fn depot_failed(error: &(dyn Error + 'static)) -> Finding {
    let finding = failed(depot_trouble(error), error);
    let Finding::Missing { reason: reasons::DEPOT_FULL, message, needs_change, retry_after } = finding else {
        return finding;
    };
    let message = format!(
        "{message}: the volume of --cache-dir is full; enlarge it, or lower --cache-limit to half of what it holds"
    );
    Finding::Missing { reason: reasons::DEPOT_FULL, message, needs_change, retry_after }
}

/// A failure that heals by itself.
pub(crate) fn failed(reason: &'static str, error: &dyn Error) -> Finding {
    Finding::Missing { reason, message: chain(error), needs_change: false, retry_after: None }
}
