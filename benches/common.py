"""What the benchmarks share: servers on free ports of loopback that end with the script, load by wrk and h2load, rounds in which those
that are compared take turns, and medians."""

import argparse
import atexit
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUESTS = ROOT / "tests/guests/out"
CORES = len(os.sched_getaffinity(0))
# Where what the package managers build for a benchmark is kept; git ignores it.
PEERS = ROOT / "target/peers"
DEBIAN = {"wrk": "wrk", "h2load": "nghttp2-client", "nginx": "nginx-light", "varnishd": "varnish", "redis-server": "redis-server", "valgrind": "valgrind", "openssl": "openssl"}


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def need(*tools):
    """Ends the script unless every tool is there."""
    lacking = [tool for tool in tools if not shutil.which(tool)]
    if lacking:
        sys.exit(f"missing: {', '.join(lacking)} (Debian: apt-get install {' '.join(DEBIAN.get(tool, tool) for tool in lacking)})")


def build(*binaries, profile="dist"):
    """Builds what is measured, as it is shipped, unless SKIP_BUILD is set; returns the folder it is in."""
    if not os.environ.get("SKIP_BUILD"):
        wanted = [word for binary in binaries for word in ("--bin", binary)]
        subprocess.run(["cargo", "build", "--locked", "--profile", profile, "--features", "tools", *wanted], cwd=ROOT, check=True)
    lacking = [binary for binary in binaries if not (ROOT / "target" / profile / binary).exists()]
    if lacking and not (lacking == ["sidelight"] and "SIDELIGHT_BIN" in os.environ):
        sys.exit(f"missing: target/{profile}/{', '.join(lacking)}; leave SKIP_BUILD out to have it built")
    return ROOT / "target" / profile


def positive(text):
    """A count of a command line."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1")
    return int(text)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


WORK = Path(tempfile.mkdtemp(prefix="bench-"))
# varnish reads its file as a user of its own.
WORK.chmod(0o755)
_running, _servers = [], []


def _end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_all():
    for process in reversed(_running):
        _end(process)
    shutil.rmtree(WORK, ignore_errors=True)


atexit.register(_end_all)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@dataclass
class Server:
    """One that runs. `port` is where it is asked."""

    name: str
    process: subprocess.Popen
    port: int
    log: Path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _end(self.process)
        _running.remove(self.process)

    def url(self, path="/", scheme="http"):
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def processes(self):
        """Its process and what that has started."""
        found, new = [], [self.process.pid]
        while new:
            found += new
            new = [int(child) for pid in new for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def rss(self):
        """Resident memory in MiB."""
        pages = (re.search(r"^Rss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M) for pid in self.processes())
        return sum(int(page[1]) for page in pages) / 1024

    def cpu(self):
        """CPU time so far, in seconds."""
        total = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def wait_for_port(self, patience=60.0):
        """Until it listens."""
        until = time.monotonic() + patience
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{self.name} does not listen\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def wait(self, path="/", patience=60.0, interval=0.1):
        """Until it answers with success."""
        until = time.monotonic() + patience
        while True:
            try:
                with urllib.request.urlopen(self.url(path), timeout=5) as answer:
                    answer.read()
                    return
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > until:
                    sys.exit(f"{self.name} does not answer {self.url(path)}: {error}\n{self.log.read_text()[-2000:]}")
            time.sleep(interval)


def commit():
    """What is measured, by its commit."""
    return subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def publish(part, text):
    """Puts `text` into docs/performance.md, between the marks of `part`."""
    page = ROOT / "docs/performance.md"
    said, begin, end = page.read_text(), f"<!-- {part}: begin (make bench-{part}) -->", f"<!-- {part}: end -->"
    if begin not in said or end not in said:
        sys.exit(f"{page} has no marks of {part}")
    before, _, rest = said.partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def start(name, command, port, environment=None, prepare=None):
    """Starts a server that logs to a file. `prepare` runs in its process before the command."""
    log = WORK / f"{name.replace(' ', '-')}-{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=WORK, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | (environment or {}), preexec_fn=prepare,
        )
    _running.append(process)
    _servers.append(Server(name, process, port, log))
    return _servers[-1]


def write(name, text):
    path = WORK / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def nginx(name, http, port, workers=CORES):
    """nginx whose `http` block holds what is given. Temporary files stay out of the way."""
    folder = WORK / name
    folder.mkdir(exist_ok=True)
    # Workers read folders of this user's.
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = " ".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file = write(
        f"{name}/nginx.conf",
        f"{user} worker_processes {workers}; daemon off; pid {folder}/pid; error_log stderr;\n"
        f"events {{ worker_connections 20000; }}\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; client_max_body_size 100m; {temporary}\n{http}\n}}\n",
    )
    return start(name, [shutil.which("nginx"), "-c", file, "-p", folder], port)


@dataclass
class Load:
    """What a turn of load gave: requests and bytes of bodies a second, how many requests in all, and the latency in ms at some percentiles."""

    requests: float
    bytes: float = 0.0
    # All of them.
    count: int = 0
    latency: dict = field(default_factory=dict)


_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
_SIZES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def fail(url, said):
    logs = (f"{server.name}: {server.log.read_text()[-2000:]}" for server in _servers if server.log.stat().st_size)
    sys.exit("\n".join([f"{url} failed under load:\n{said}", *logs]))


def wrk(url, seconds, connections=32, threads=CORES, script=None, headers=()):
    command = ["wrk", f"-t{min(threads, connections)}", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
    if script:
        command += ["-s", str(script)]
    for header in headers:
        command += ["-H", header]
    said = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    if re.search(r"Non-2xx|Socket errors", said):
        fail(url, said)
    latency = {float(p): float(n) * _UNITS[unit] for p, n, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s|m)$", said, re.M)}
    transfer = re.search(r"Transfer/sec:\s+([\d.]+)(B|KB|MB|GB)", said)
    count = int(re.search(r"(\d+) requests in", said)[1])
    return Load(float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), float(transfer[1]) * _SIZES[transfer[2]], count, latency)


def h2load(url, seconds, connections=32, streams=1, data=None, headers=()):
    command = ["h2load", f"-t{min(CORES, connections)}", f"-c{connections}", f"-m{streams}", f"-D{seconds}", "--warm-up-time=1"]
    if data:
        command += ["-d", str(data)]
    for header in headers:
        command += ["-H", header]
    said = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    counts = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
    if any(int(n) for n in counts.groups()) or any(int(n) for n in statuses.groups()[1:]):
        fail(url, said)
    finished = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s, ([\d.]+)([KMG]?B)/s", said)
    return Load(float(finished[1]), float(finished[2]) * _SIZES[finished[3]])


def rounds(names, turn, count):
    """`turn(name)` for each name, `count` times over, every other time in the other order; the results of each name, round by round."""
    results = {name: [] for name in names}
    for n in range(count):
        for name in names if n % 2 == 0 else reversed(names):
            results[name].append(turn(name))
    return results


def spread(values, digits=2):
    """min, median and max, as text: `median (min to max)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(ours, theirs):
    return [a / b for a, b in zip(ours, theirs)]


def machine():
    """What this ran on, on a line."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) >> 20
    return f"{CORES} cores ({model[1] if model else os.uname().machine}), {memory} GiB, Linux {os.uname().release}"
