//! Ways in: kubeconfigs by certificate or token, and ServiceAccount tokens as a kubelet requests them.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};
use kube::{Api, Client};

use super::{ControlPlane, ControlPlaneError, Identity, Pki, client, write_kubeconfig};

/// What a token's life is bound to; it is part of what the token claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: a token of the account.
    None,
    /// A Pod in the account's namespace; once that Pod is on a node, the token names the node too.
    Pod {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// A Node.
    Node {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

/// How a kubeconfig authenticates.
#[derive(Debug, Clone)]
pub enum Credential {
    /// By client certificate.
    Certificate(Identity),
    /// By bearer token.
    Token(String),
}

impl From<Identity> for Credential {
    fn from(identity: Identity) -> Self {
        Self::Certificate(identity)
    }
}

/// A kubeconfig for a server on loopback.
pub fn kubeconfig(pki: &Pki, port: u16, credential: &Credential) -> Kubeconfig {
    let mut user = AuthInfo::default();
    match credential {
        Credential::Certificate(identity) => {
            user.client_certificate_data = Some(BASE64_STANDARD.encode(&identity.certificate));
            let key = BASE64_STANDARD.encode(&identity.key);
            user.client_key_data = Some(key.into());
        }
        Credential::Token(token) => user.token = Some(token.clone().into()),
    }
    let cluster = Cluster {
        server: Some(format!("https://127.0.0.1:{port}")),
        certificate_authority_data: Some(BASE64_STANDARD.encode(pki.authority())),
        ..Cluster::default()
    };
    let context = Context { cluster: NAME.into(), user: Some(NAME.into()), ..Context::default() };
    Kubeconfig {
        kind: Some("Config".into()),
        api_version: Some("v1".into()),
        clusters: vec![NamedCluster { name: NAME.into(), cluster: Some(cluster), ..NamedCluster::default() }],
        auth_infos: vec![NamedAuthInfo {
            name: NAME.into(),
            auth_info: Some(user),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext { name: NAME.into(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(NAME.into()),
        ..Kubeconfig::default()
    }
}

/// The one cluster, user and context of a kubeconfig.
const NAME: &str = "lab";

/// Requests a token of a ServiceAccount; without audience it is for the API server itself.
pub async fn request_token(
    client: Client,
    namespace: &str,
    account: &str,
    audience: Option<&str>,
    binding: &Binding,
) -> Result<String, ControlPlaneError> {
    let reference = |kind: &str, name: &str, uid: &str| BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        name: Some(name.into()),
        uid: Some(uid.into()),
    };
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.map(ToOwned::to_owned).into_iter().collect(),
            bound_object_ref: match binding {
                Binding::None => None,
                Binding::Pod { name, uid } => Some(reference("Pod", name, uid)),
                Binding::Node { name, uid } => Some(reference("Node", name, uid)),
            },
            expiration_seconds: Some(3607),
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    answer.status.map(|status| status.token).filter(|token| !token.is_empty()).ok_or_else(|| {
        ControlPlaneError::NoToken { namespace: namespace.to_owned(), name: account.to_owned() }
    })
}

impl ControlPlane {
    /// A token of a ServiceAccount, asked for as the administrator.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: Option<&str>,
        binding: &Binding,
    ) -> Result<String, ControlPlaneError> {
        request_token(self.client(), namespace, account, audience, binding).await
    }

    /// A client that authenticates so.
    pub async fn client_as(&self, credential: &Credential) -> Result<Client, ControlPlaneError> {
        client(kubeconfig(self.pki(), self.port(), credential)).await
    }

    /// Writes a kubeconfig that authenticates so into the control plane's folder.
    pub fn write_kubeconfig_as(
        &self,
        name: &str,
        credential: &Credential,
    ) -> Result<PathBuf, ControlPlaneError> {
        let path = self.folder().join(Path::new(name).with_extension("kubeconfig"));
        write_kubeconfig(&path, &kubeconfig(self.pki(), self.port(), credential))?;
        Ok(path)
    }
}
