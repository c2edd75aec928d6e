//! `[kubernetes]`: services that the objects of a Kubernetes cluster make.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[kubernetes]` of a host file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesTable {
    /// Whether ConfigMaps and Secrets with the label `sidelight.dev/service` are served; default: false.
    services: bool,
    /// Their namespace; default: the Pod's.
    namespace: Option<String>,
    /// Whether those whose time is over are deleted; default: false.
    delete_expired: bool,
}

/// Where services are looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kubernetes {
    /// The namespace; `None`: the Pod's, or that of the kubeconfig's context.
    pub namespace: Option<String>,
    /// Whether objects whose time is over are deleted.
    pub delete_expired: bool,
}

impl KubernetesTable {
    /// Whether anything is looked for.
    pub fn is_on(&self) -> bool {
        self.services
    }

    /// What is to be done, if anything is.
    pub fn decide(&self) -> Option<Kubernetes> {
        self.services.then(|| Kubernetes { namespace: self.namespace.clone(), delete_expired: self.delete_expired })
    }
}
