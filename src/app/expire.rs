//! The end of a preview environment: what a CronJob of the Helm chart runs.
//!
//! A release whose last deployment is older than it may be is removed as `helm uninstall` would, or its whole namespace is.
//! What removes it is a part of it: it makes its own permissions depend on the CronJob and deletes that last, so
//! that the cluster's garbage collection takes the rest.

use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::json;

use super::Exit;
use crate::runtime::source::chained as chain;
use crate::telemetry::clock;

/// What is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The objects of the release, and Helm's notes of it.
    Release,
    /// Its namespace with everything in it.
    Namespace,
}

/// Which preview, and until when it may live.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Where it is.
    pub namespace: String,
    /// The Helm release: the label `app.kubernetes.io/instance` of its objects.
    pub release: String,
    /// The name that the CronJob and its permissions have; `None`: that of the release's CronJob with the component `expire`.
    pub name: Option<String>,
    /// How long it lives after its last deployment.
    pub ttl: Duration,
    /// What is removed then.
    pub what: What,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It lives on, until then.
    Lives(SystemTime),
    /// It is removed: so many objects, of what there was.
    Removed(usize),
    /// There is no such release.
    Unknown,
}

/// Kinds that the chart makes, in the order in which they are removed: traffic first.
const KINDS: [(&str, &str, &str, &str); 19] = [
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
    ("gateway.networking.k8s.io", "v1", "GRPCRoute", "grpcroutes"),
    ("networking.k8s.io", "v1", "Ingress", "ingresses"),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    ("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("", "v1", "Service", "services"),
    ("apps", "v1", "Deployment", "deployments"),
    ("batch", "v1", "Job", "jobs"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "Secret", "secrets"),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
];

/// What makes up the permissions of the CronJob.
const OWN: [(&str, &str, &str, &str); 3] = [KINDS[16], KINDS[17], KINDS[18]];

fn resource((group, version, kind, plural): (&str, &str, &str, &str)) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn said(what: &str, error: &kube::Error) -> Exit {
    Exit::Internal(format!("{what}: {}", chain(error)))
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Removes a preview whose time is over.
pub async fn run(preview: &Preview) -> Result<Fate, Exit> {
    let client = Client::try_default().await.map_err(|error| said("the Kubernetes cluster cannot be reached", &error))?;
    let Some(last) = last_deployment(&client, preview).await? else { return Ok(Fate::Unknown) };
    let end = last.checked_add(preview.ttl).ok_or_else(|| Exit::Usage("this time is too long".to_owned()))?;
    if end > clock::wall() {
        return Ok(Fate::Lives(end));
    }
    match preview.what {
        What::Release => remove(&client, preview).await.map(Fate::Removed),
        What::Namespace => {
            let namespaces: Api<DynamicObject> = Api::all_with(client.clone(), &resource(("", "v1", "Namespace", "namespaces")));
            // What this runs with is in it, and goes with it.
            namespaces
                .delete(&preview.namespace, &DeleteParams::background())
                .await
                .map_err(|error| said("deleting the namespace", &error))?;
            Ok(Fate::Removed(1))
        }
    }
}

/// When the release was deployed last: Helm notes every revision; where others have applied what Helm rendered, the newest
/// change of its objects counts.
async fn last_deployment(client: &Client, preview: &Preview) -> Result<Option<SystemTime>, Exit> {
    let notes = Api::<DynamicObject>::namespaced_with(client.clone(), &preview.namespace, &resource(KINDS[14]));
    let helms = ListParams::default().labels(&format!("owner=helm,name={}", preview.release));
    let notes = notes.list(&helms).await.map_err(|error| said("listing Secrets", &error))?;
    if let Some(last) = notes.iter().filter_map(|note| changed(&note.metadata)).max() {
        return Ok(Some(last));
    }
    let mut last = None;
    for kind in KINDS {
        let found = list(client, preview, kind).await?;
        last = last.max(found.iter().filter_map(|object| changed(&object.metadata)).max());
    }
    Ok(last)
}

/// The last change of an object, what controllers say of its state apart.
fn changed(about: &ObjectMeta) -> Option<SystemTime> {
    let changes = about.managed_fields.iter().flatten().filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    let times = changes.filter_map(|entry| entry.time.as_ref()).chain(&about.creation_timestamp);
    times.map(|time| SystemTime::from(time.0)).max()
}

/// Objects of the release, of one kind; none if the cluster has no such kind.
async fn list(client: &Client, preview: &Preview, kind: (&str, &str, &str, &str)) -> Result<Vec<DynamicObject>, Exit> {
    let objects = Api::<DynamicObject>::namespaced_with(client.clone(), &preview.namespace, &resource(kind));
    let of_the_release = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", preview.release));
    match objects.list(&of_the_release).await {
        Ok(list) => Ok(list.items),
        Err(error) if is(&error, 404) => Ok(Vec::new()),
        Err(error) => Err(said(&format!("listing {}", kind.3), &error)),
    }
}

/// Removes the release, itself last.
async fn remove(client: &Client, preview: &Preview) -> Result<usize, Exit> {
    let jobs = Api::namespaced_with(client.clone(), &preview.namespace, &resource(("batch", "v1", "CronJob", "cronjobs")));
    let jobs: Api<DynamicObject> = jobs;
    let own = match &preview.name {
        Some(name) => match jobs.get(name).await {
            Ok(own) => Some(own),
            Err(error) if is(&error, 404) => None,
            Err(error) => return Err(said("reading the CronJob", &error)),
        },
        // Somebody runs this by hand.
        None => {
            let labels = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=expire", preview.release);
            let found = jobs.list(&ListParams::default().labels(&labels)).await.map_err(|error| said("listing CronJobs", &error))?;
            found.items.into_iter().next()
        }
    };
    let own_name = own.as_ref().and_then(|own| own.metadata.name.clone()).unwrap_or_default();
    let mut removed = 0;
    for kind in KINDS {
        let objects = Api::<DynamicObject>::namespaced_with(client.clone(), &preview.namespace, &resource(kind));
        for object in list(client, preview, kind).await? {
            let name = object.metadata.name.clone().unwrap_or_default();
            let of_the_job = object.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "CronJob");
            // What this runs with goes with the CronJob.
            if of_the_job || (own.is_some() && name == own_name && OWN.contains(&kind)) {
                continue;
            }
            match objects.delete(&name, &DeleteParams::background()).await {
                Ok(_) => removed += 1,
                Err(error) if is(&error, 404) => {}
                Err(error) => return Err(said(&format!("deleting {} {name}", kind.2), &error)),
            }
        }
    }
    let notes = Api::<DynamicObject>::namespaced_with(client.clone(), &preview.namespace, &resource(KINDS[14]));
    let helms = ListParams::default().labels(&format!("owner=helm,name={}", preview.release));
    for note in notes.list(&helms).await.map_err(|error| said("listing Helm's Secrets", &error))? {
        let name = note.metadata.name.clone().unwrap_or_default();
        match notes.delete(&name, &DeleteParams::background()).await {
            Ok(_) => removed += 1,
            Err(error) if is(&error, 404) => {}
            Err(error) => return Err(said(&format!("deleting Secret {name}"), &error)),
        }
    }
    if let Some(own) = own {
        for kind in OWN {
            let part = Api::namespaced_with(client.clone(), &preview.namespace, &resource(kind));
            depend(&part, &own_name, ("batch/v1", "CronJob"), &own.metadata).await?;
        }
        jobs.delete(&own_name, &DeleteParams::background()).await.map_err(|error| said("deleting the CronJob", &error))?;
        removed += 1 + OWN.len();
    }
    Ok(removed)
}

/// Has garbage collection remove an object with its owner.
async fn depend(objects: &Api<DynamicObject>, name: &str, (version, kind): (&str, &str), owner: &ObjectMeta) -> Result<(), Exit> {
    let reference = json!({ "apiVersion": version, "kind": kind, "name": owner.name, "uid": owner.uid });
    let patch = json!({ "metadata": { "ownerReferences": [reference] } });
    match objects.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is(&error, 404) => Ok(()),
        Err(error) => Err(said(&format!("making {name} depend on its {kind}"), &error)),
    }
}
