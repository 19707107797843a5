//! How registries are spoken to, whatever is asked of them: credentials, TLS, deadlines; and what their answers mean.

use std::error::Error;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
pub(crate) use tenon_api::message::chain;
use tenon_api::module::RegistryTls;
use tenon_api::reasons;
use tenon_image::keyring::{Keyring, SecretFormat};
use tenon_image::registry::{RegistryError, Timing, TlsSettings};
use tenon_image::{ImageReference, Retry};
use tenon_plan::provision::Finding;

use crate::args::RegistrySettings;
use crate::metrics::RegistryOutcome;
use crate::run::Context;

/// A silent registry should show in the status while its user still looks, not a minute later.
pub(crate) const TIMING: Timing = Timing {
    manifest: Duration::from_secs(15),
    blob: Duration::from_mins(20),
    pause: Duration::from_millis(250),
    attempts: 4,
};

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

/// A registry's failure, as it is counted.
pub(crate) fn outcome(error: &RegistryError) -> RegistryOutcome {
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
        RegistryError::Disk { .. } => reasons::DEPOT_FAILED,
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

/// A failure that heals by itself.
pub(crate) fn failed(reason: &'static str, error: &dyn Error) -> Finding {
    Finding::Missing { reason, message: chain(error), needs_change: false, retry_after: None }
}
