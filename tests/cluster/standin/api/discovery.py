"""What the API serves, as clients ask for it: discovery in both forms, and OpenAPI."""

from __future__ import annotations

from .model import Catalog, Obj, Resource

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

# Kinds that are only ever posted.
_REVIEWS: dict[str, list[tuple[str, str, bool]]] = {
    "authorization.k8s.io": [
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
        ("selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
        ("subjectaccessreviews", "SubjectAccessReview", False),
        ("localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    ],
    "authentication.k8s.io": [("tokenreviews", "TokenReview", False), ("selfsubjectreviews", "SelfSubjectReview", False)],
}
_SUBRESOURCE_KIND = {
    "scale": ("autoscaling", "v1", "Scale"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
    "eviction": ("policy", "v1", "Eviction"),
}


def versions() -> Obj:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group(name: str, known: list[str]) -> Obj:
    listed = [{"groupVersion": f"{name}/{v}", "version": v} for v in known]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def groups(catalog: Catalog) -> Obj:
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(n, v) for n, v in catalog.groups().items() if n]}


def resources(catalog: Catalog, group_name: str, version: str) -> Obj | None:
    out: list[Obj] = []
    for x in catalog.resources:
        if (x.group, x.version) != (group_name, version):
            continue
        out.append(
            {
                "name": x.plural,
                "singularName": x.singular,
                "namespaced": x.namespaced,
                "kind": x.kind,
                "verbs": list(x.verbs),
                "shortNames": list(x.short),
                "categories": list(x.categories),
            }
        )
        for sub in x.subresources:
            g, v, kind = _SUBRESOURCE_KIND.get(sub, ("", "", x.kind))
            e: Obj = {
                "name": f"{x.plural}/{sub}",
                "singularName": "",
                "namespaced": x.namespaced,
                "kind": kind,
                "verbs": ["get", "patch", "update"],
            }
            if kind != x.kind:
                e.update(group=g, version=v)
            out.append(e)
    out += [
        {"name": p, "singularName": k.lower(), "namespaced": n, "kind": k, "verbs": ["create"]} for p, k, n in _REVIEWS.get(group_name, [])
    ]
    if not out:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{version}" if group_name else version,
        "resources": out,
    }


def _aggregated_resource(x: Resource) -> Obj:
    subs = []
    for sub in x.subresources:
        g, v, kind = _SUBRESOURCE_KIND.get(sub, (x.group, x.version, x.kind))
        subs.append({"subresource": sub, "responseKind": {"group": g, "version": v, "kind": kind}, "verbs": ["get", "patch", "update"]})
    return {
        "resource": x.plural,
        "responseKind": {"group": x.group, "version": x.version, "kind": x.kind},
        "scope": "Namespaced" if x.namespaced else "Cluster",
        "singularResource": x.singular,
        "verbs": list(x.verbs),
        "shortNames": list(x.short),
        "categories": list(x.categories),
        "subresources": subs,
    }


def aggregated(catalog: Catalog, core: bool) -> Obj:
    items = []
    for name, known in catalog.groups().items():
        if (name == "") != core:
            continue
        listed = []
        for v in known:
            found = [_aggregated_resource(x) for x in catalog.resources if (x.group, x.version) == (name, v)]
            found += [
                {
                    "resource": p,
                    "responseKind": {"group": name, "version": v, "kind": k},
                    "scope": "Namespaced" if n else "Cluster",
                    "singularResource": k.lower(),
                    "verbs": ["create"],
                }
                for p, k, n in _REVIEWS.get(name, [])
            ]
            listed.append({"version": v, "resources": found, "freshness": "Current"})
        items.append({"metadata": {"name": name, "creationTimestamp": None}, "versions": listed})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


# ---- OpenAPI v3: kinds without their fields, and the parameters of PATCH, by which clients learn that the server validates


def _path(group_name: str, version: str) -> str:
    return f"apis/{group_name}/{version}" if group_name else f"api/{version}"


def openapi_index(catalog: Catalog) -> Obj:
    paths = {
        _path(g, v): {"serverRelativeURL": f"/openapi/v3/{_path(g, v)}?hash=0"} for g, known in catalog.groups().items() for v in known
    }
    return {"paths": paths}


def openapi(catalog: Catalog, path: str) -> Obj | None:
    found = [x for x in catalog.resources if _path(x.group, x.version) == path]
    if not found:
        return None
    parameters = [
        {"name": n, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        for n in ("dryRun", "fieldManager", "fieldValidation", "force")
    ]
    schemas: Obj = {}
    paths: Obj = {}
    for x in found:
        gvk = [{"group": x.group, "version": x.version, "kind": x.kind}]
        name = f"io.k8s.{x.group or 'core'}.{x.version}.{x.kind}"
        schemas[name] = {"type": "object", "x-kubernetes-group-version-kind": gvk, "x-kubernetes-preserve-unknown-fields": True}
        operation = {"parameters": parameters, "x-kubernetes-group-version-kind": gvk[0], "responses": {"200": {"description": "OK"}}}
        content = {k: {"schema": {"$ref": f"#/components/schemas/{name}"}} for k in ("application/json", "application/apply-patch+yaml")}
        paths[x.list_path] = {"post": {**operation, "x-kubernetes-action": "post", "requestBody": {"content": content}}}
        paths[x.list_path + "/{name}"] = {
            m: {**operation, "x-kubernetes-action": m, "requestBody": {"content": content}} for m in ("patch", "put")
        }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": paths, "components": {"schemas": schemas}}
