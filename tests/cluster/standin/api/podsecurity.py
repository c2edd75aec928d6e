"""Pod Security Standards: what namespaces with pod-security.kubernetes.io/enforce refuse."""

from __future__ import annotations

from .model import Obj

LABEL = "pod-security.kubernetes.io/enforce"
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image"}
_BASELINE_CAPABILITIES = {
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
}


def _baseline(spec: Obj, containers: list[Obj]) -> list[str]:
    out: list[str] = []
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            out.append(f"host namespaces ({key}=true)")
    for v in spec.get("volumes") or []:
        if "hostPath" in v:
            out.append(f'hostPath volumes (volume "{v["name"]}")')
    for c in containers:
        context = c.get("securityContext") or {}
        if context.get("privileged"):
            out.append(f'privileged (container "{c["name"]}" must not set securityContext.privileged=true)')
        added = set((context.get("capabilities") or {}).get("add") or []) - _BASELINE_CAPABILITIES
        if added:
            out.append(
                f'non-default capabilities (container "{c["name"]}" must not include {sorted(added)} in securityContext.capabilities.add)'
            )
        if any(p.get("hostPort") for p in c.get("ports") or []):
            out.append(f'hostPort (container "{c["name"]}" uses hostPorts)')
    return out


def _restricted(spec: Obj, containers: list[Obj]) -> list[str]:
    out: list[str] = []
    pod = spec.get("securityContext") or {}
    for v in spec.get("volumes") or []:
        kinds = set(v) - {"name"} - _VOLUMES
        if kinds:
            out.append(f'restricted volume types (volume "{v["name"]}" uses restricted volume type {sorted(kinds)})')
    for c in containers:
        name, context = c["name"], c.get("securityContext") or {}
        if context.get("allowPrivilegeEscalation") is not False:
            out.append(f'allowPrivilegeEscalation != false (container "{name}" must set securityContext.allowPrivilegeEscalation=false)')
        if "ALL" not in ((context.get("capabilities") or {}).get("drop") or []):
            out.append(f'unrestricted capabilities (container "{name}" must set securityContext.capabilities.drop=["ALL"])')
        if set((context.get("capabilities") or {}).get("add") or []) - {"NET_BIND_SERVICE"}:
            out.append(f'unrestricted capabilities (container "{name}" must not add capabilities)')
        if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            out.append(f'runAsNonRoot != true (pod or container "{name}" must set securityContext.runAsNonRoot=true)')
        if context.get("runAsUser", pod.get("runAsUser")) == 0:
            out.append(f'runAsUser=0 (pod or container "{name}" must not set runAsUser=0)')
        if (context.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            out.append(
                f'seccompProfile (pod or container "{name}" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
            )
    return out


def violations(level: str, spec: Obj) -> list[str]:
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    if level == "baseline":
        return _baseline(spec, containers)
    if level == "restricted":
        return _baseline(spec, containers) + _restricted(spec, containers)
    return []
