//! From files to a plan: what the process is to serve. The same code for serving, reloading and checking.

mod dropins;

pub use dropins::{EXPIRES, SINCE};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use toml::Spanned;

use crate::config::diagnostics::{Problem, Sources};
use crate::config::document::{Node, Value};
use crate::config::host_file::{self, DropIns, Host};
use crate::config::logs::{LogEndpoint, Sink};
use crate::config::services::ServiceEntry;
use crate::config::settings::{Machine, Settings};
use crate::config::{Config, ConfigError, HostConfig, HttpVersions, ModuleSource, Rollout, files};
use crate::runtime::Route;
use crate::runtime::source::{MAX_SIZE, packed_manifest};
use crate::telemetry::clock;

/// What is asked for: files and settings, as the command line has them.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Settings, which go before those of a host file.
    pub settings: Settings,
    /// Documents: at most one host file and one service's manifest.
    pub documents: Vec<PathBuf>,
    /// The text of the manifest, in place of a document.
    pub manifest: Option<String>,
    /// The program of the one service, if it is not where the manifest has it.
    pub program: Option<ModuleSource>,
    /// Whether a manifest's `[setup]` is used where its `local_server` is silent.
    pub use_setup: bool,
    /// Where it runs.
    pub machine: Machine,
}

/// What a manifest is called that is no document.
const COMMAND_LINE: &str = "(command line)";

/// What is to be served.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The process.
    pub host: HostConfig,
    /// Its services.
    pub services: Vec<ServicePlan>,
    /// Services that come and go. One that cannot be planned leaves the others alone.
    pub dropins: Vec<DropIn>,
    /// Every file that this was read from, or would be if it were there.
    pub documents: BTreeSet<PathBuf>,
    /// Documents that say something: they are not expected to be empty later.
    pub written: Arc<BTreeSet<PathBuf>>,
}

/// A service that comes and goes.
#[derive(Clone, Debug)]
pub struct DropIn {
    /// Its name.
    pub name: String,
    /// Since when it is there.
    pub since: SystemTime,
    /// What is wrong with it, or what it is.
    pub plan: Result<ServicePlan, ConfigError>,
}

/// One service.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// Which requests are for it.
    pub route: Route,
    /// Its settings.
    pub config: Config,
    /// Its program.
    pub module: ModuleSource,
    /// How often to look whether it has moved.
    pub poll: Option<Duration>,
    /// How a new generation takes over.
    pub rollout: Option<Rollout>,
    /// When it is served no longer.
    pub expires: Option<SystemTime>,
}

impl ServicePlan {
    /// File descriptors that it has open: of its program, of files and connections of its log endpoints, of its stores on disk. Twice that,
    /// since the next generation is there before the last one goes.
    pub fn descriptors(&self) -> usize {
        let opens = |log: &&LogEndpoint| match log.sink {
            Sink::File(_) | Sink::Syslog(_) | Sink::Http(_) | Sink::Otlp(_) => true,
            Sink::Log | Sink::Stdout | Sink::Stderr | Sink::Redis { .. } => false,
        };
        let logs = self.config.logs.values().filter(opens).count();
        let on_disk = self.config.state.data_dir.is_some() && !self.config.stores.kv.is_empty();
        2 * (1 + logs + usize::from(on_disk))
    }

    /// Whether its time is over.
    pub fn is_over(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= clock::wall())
    }
}

/// A plan that cannot be made. The documents read so far are worth watching: one of them has to change.
#[derive(Debug)]
pub struct Unplanned {
    /// Why.
    pub error: ConfigError,
    /// What was read.
    pub documents: BTreeSet<PathBuf>,
}

impl Plan {
    /// File descriptors that its services have open, those that come and go apart.
    pub fn descriptors(&self) -> usize {
        self.services.iter().map(ServicePlan::descriptors).sum()
    }
}

impl Launch {
    /// Reads everything, or says everything that is wrong.
    pub fn plan(&self) -> Result<Plan, Unplanned> {
        self.plan_after(&Arc::default())
    }

    /// The same when these documents have said something before.
    pub fn plan_after(&self, written: &Arc<BTreeSet<PathBuf>>) -> Result<Plan, Unplanned> {
        let mut reader = Reader { before: written.clone(), ..Reader::default() };
        match reader.plan(self) {
            Some(plan) if reader.problems.is_empty() => Ok(Plan { documents: reader.documents, written: Arc::new(reader.written), ..plan }),
            _ => Err(Unplanned { error: ConfigError::new(reader.sources, reader.problems), documents: reader.documents }),
        }
    }
}

/// Most bytes of a document.
const MOST_TEXT: u64 = 32 << 20;

/// Reads documents, and keeps what is wrong with them.
#[derive(Default)]
struct Reader {
    sources: Sources,
    problems: Vec<Problem>,
    documents: BTreeSet<PathBuf>,
    /// Documents that said something before.
    before: Arc<BTreeSet<PathBuf>>,
    /// Those that do, or did.
    written: BTreeSet<PathBuf>,
    /// Most bytes of a document, where that is less than usual.
    most_text: Option<u64>,
}

impl Reader {
    /// A document; `from` is where it is asked for.
    fn read(&mut self, path: &Path, from: Option<&Spanned<String>>) -> Option<Node> {
        self.documents.insert(path.to_owned());
        let text = match files::read_text(path, self.most_text.unwrap_or(MOST_TEXT)) {
            // Whoever writes a file for the second time empties it first.
            Ok(text) if text.trim().is_empty() && self.before.contains(path) => {
                self.written.insert(path.to_owned());
                let base = self.sources.add(path, "");
                let problem = Problem::at(base..base, "the file is empty, and was not");
                self.problems.push(problem.hint("it may have been cut short; if nothing is meant, a comment says so: # nothing"));
                return None;
            }
            Ok(text) => text,
            Err(error) => {
                let problem = match from {
                    Some(from) => {
                        Problem::at(from.span(), format!("{}: {error}", path.display())).hint("it is looked for beside this file")
                    }
                    None => {
                        let base = self.sources.add(path, "");
                        Problem::at(base..base, error.to_string()).hint("-C FILE says where it is")
                    }
                };
                self.problems.push(problem);
                return None;
            }
        };
        if !text.trim().is_empty() {
            self.written.insert(path.to_owned());
        }
        let base = self.sources.add(path, &text);
        match Node::parse(&text, path, base) {
            Ok(document) => Some(document),
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    fn keep<T>(&mut self, result: Result<T, Vec<Problem>>) -> Option<T> {
        result.map_err(|problems| self.problems.extend(problems)).ok()
    }

    fn fault(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem { span: None, message: message.into(), hint: Some(hint.into()) });
    }

    fn plan(&mut self, launch: &Launch) -> Option<Plan> {
        let mut host: Option<Host> = None;
        let mut manifest: Option<(PathBuf, Node)> = None;
        for path in &launch.documents {
            let document = self.read(path, None)?;
            if host_file::is_host_file(&document) {
                let decided = Host::decide(&document, &self.sources);
                let decided = self.keep(decided)?;
                if host.replace(decided).is_some() {
                    self.fault("two host files", "one host file and one manifest at most");
                }
            } else if manifest.replace((path.clone(), document)).is_some() {
                self.fault("two manifests", "[services.NAME] of a host file serves several");
            }
        }
        if let Some(text) = &launch.manifest {
            let base = self.sources.add(Path::new(COMMAND_LINE), text);
            let document = self.keep(Node::parse(text, Path::new(COMMAND_LINE), base))?;
            manifest = Some((PathBuf::new(), document));
        }
        let Host { settings, services, dropins, kubernetes } = host.unwrap_or_default();
        let mut decided = launch.settings.clone().or(settings).decide(&launch.machine);
        // The command line's folder, the host file's rules.
        let given = decided.dropins.take().map(|from| from.folder);
        let dropins = match (dropins, given) {
            (rules, Some(folder)) => Some(DropIns { folder, hosts: rules.map(|rules| rules.hosts).unwrap_or_default() }),
            (rules, None) => rules,
        };
        (decided.dropins, decided.kubernetes) = (self.folder(dropins, &decided), kubernetes);
        if decided.cache.disk > 0 && decided.state.data_dir.is_none() {
            self.fault(
                "the cache is to be kept on disk, too (--cache-disk, cache.disk_mib), and there is no folder for that",
                "--data-dir FOLDER, or data_dir in the host file",
            );
        }
        if !services.is_empty() && (manifest.is_some() || launch.program.is_some()) {
            self.fault("a manifest or a program beside a host file that has services", "leave out one of them");
            return None;
        }
        let comes_alone = manifest.is_none() && launch.program.is_none() && decided.dropins.is_some();
        let plans: Vec<Option<ServicePlan>> = if services.is_empty() && comes_alone {
            Vec::new()
        } else if services.is_empty() {
            vec![self.single(launch, &decided, manifest)]
        } else {
            services.iter().map(|entry| self.service(entry, &decided)).collect()
        };
        let services = plans.into_iter().collect::<Option<Vec<_>>>()?;
        self.collisions(&services);
        let dropins = match &decided.dropins {
            None => Vec::new(),
            Some(from) => match dropins::read(from, &decided, self) {
                Ok(dropins) => dropins,
                Err(error) => {
                    let message = format!("the folder of services, {}, cannot be read: {error}", from.folder.display());
                    self.fault(message, "it has to be a folder that this process may read (services_dir)");
                    return None;
                }
            },
        };
        Some(Plan { host: decided, services, dropins, documents: BTreeSet::new(), written: Arc::default() })
    }

    /// The one service of a process without a list of them.
    fn single(&mut self, launch: &Launch, host: &HostConfig, manifest: Option<(PathBuf, Node)>) -> Option<ServicePlan> {
        let beside = manifest.as_ref().map(|(path, _)| beside(path));
        let manifest = manifest.or_else(|| self.packed(launch.program.as_ref()?.file()?));
        let config = match manifest {
            Some((_, document)) => {
                let decided = Config::decide(&document, &self.sources, launch.use_setup);
                self.keep(decided)?
            }
            None => Config::bare(),
        };
        let Some(module) = launch.program.clone().or(beside) else {
            self.fault(
                "nothing to serve: there is no program and no service",
                "[services.NAME] of a host file, or sidelight serve FASTLY.TOML APP.WASM",
            );
            return None;
        };
        Some(ServicePlan { route: Route::default(), config: with_host(config, host), module, poll: None, rollout: None, expires: None })
    }

    /// The manifest in a package.
    fn packed(&mut self, program: &Path) -> Option<(PathBuf, Node)> {
        // A package is a file, of no more than a program may have.
        std::fs::metadata(program).ok().filter(|what| what.is_file() && what.len() <= MAX_SIZE as u64)?;
        let text = packed_manifest(&files::read(program, MAX_SIZE as u64).ok()?)?;
        let name = program.join("fastly.toml");
        let base = self.sources.add(&name, &text);
        let document = self.keep(Node::parse(&text, &name, base))?;
        Some((name, document))
    }

    fn service(&mut self, entry: &ServiceEntry, host: &HostConfig) -> Option<ServicePlan> {
        let mut document = match &entry.manifest {
            Some((from, path)) => self.read(path, Some(from))?,
            None => Node { span: entry.name.span(), value: Value::Table(Vec::new()) },
        };
        document.merge(entry.overrides.clone());
        let decided = Config::decide(&document, &self.sources, entry.use_setup);
        let config = self.keep(decided)?;
        let module = match (&entry.module, &entry.manifest) {
            (Some(module), _) => module.clone(),
            (None, Some((_, manifest))) => beside(manifest),
            (None, None) => {
                let message = format!("service `{}` has neither a module nor a manifest", entry.name.get_ref());
                self.problems.push(Problem::at(entry.name.span(), message).hint("module = \"app.wasm\""));
                return None;
            }
        };
        let mut config = with_host(config, host);
        config.name.clone_from(entry.name.get_ref());
        config.limits = entry.limits.guest(&host.limits.guest);
        if config.limits.memory > host.limits.memory {
            let message = format!("service `{}` may have more memory than the host's sandboxes have", entry.name.get_ref());
            self.problems.push(Problem::at(entry.name.span(), message).hint("[limits] memory_mib is the most that any may have"));
        }
        config.environment = entry.environment.decide(&host.environment);
        if let Some(targets) = &entry.dynamic_targets {
            config.dynamic_targets = targets.clone();
        }
        let route = Route { hosts: entry.hosts.clone(), paths: entry.paths.clone(), headers: entry.headers.clone() };
        Some(ServicePlan { route, config, module, poll: entry.poll, rollout: entry.rollout.clone(), expires: entry.expires })
    }

    /// Two services cannot have the same requests.
    fn collisions(&mut self, services: &[ServicePlan]) {
        let mut taken = Taken::default();
        for service in services {
            if let Some(message) = taken.take(service) {
                self.fault(message, DIFFERENT);
            }
        }
    }

    /// Where services that come and go are, with what a host file leaves open.
    fn folder(&mut self, given: Option<DropIns>, host: &HostConfig) -> Option<DropIns> {
        let mut given = given?;
        if given.folder.as_os_str().is_empty() {
            match &host.cache_dir {
                Some(folder) => given.folder = folder.join("services"),
                None => {
                    self.fault("services of Kubernetes need a folder, and there is none", "services_dir, or cache_dir in the host file")
                }
            }
        }
        Some(given)
    }
}

/// What to do about services that want the same requests.
pub const DIFFERENT: &str = "give them different `hosts`, `paths` or `headers`";

/// Which requests are taken, and by whom.
#[derive(Default)]
pub struct Taken<'a>(BTreeMap<Requests, &'a str>);

/// A host, a path, and header fields in the order of their names.
type Requests = (String, String, Vec<(String, Vec<u8>)>);

impl<'a> Taken<'a> {
    /// Gives a service its requests, unless another has some of them: who, and which.
    pub fn take(&mut self, service: &'a ServicePlan) -> Option<String> {
        let every = |list: &[String]| if list.is_empty() { vec![String::new()] } else { list.to_vec() };
        let route = &service.route;
        let mut headers: Vec<_> =
            route.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_owned())).collect();
        headers.sort();
        let mut wanted = Vec::new();
        for host in every(&route.hosts) {
            for path in every(&route.paths) {
                let key = (host.clone(), path.trim_end_matches('/').to_owned(), headers.clone());
                if let Some(other) = self.0.get(&key) {
                    let what = if host.is_empty() { "every host".to_owned() } else { format!("host `{host}`") };
                    let fields = if headers.is_empty() { "" } else { " and the same header fields" };
                    return Some(format!(
                        "services `{other}` and `{}` both have {what} with path `{}/`{fields}",
                        service.config.name, key.1
                    ));
                }
                wanted.push(key);
            }
        }
        self.0.extend(wanted.into_iter().map(|key| (key, service.config.name.as_str())));
        None
    }
}

/// Why a service cannot have what it wants: it is a part of what another has, by host, path and header fields.
pub fn part_of_anothers(others: &[&ServicePlan], plan: &ServicePlan) -> Option<String> {
    let mine = &plan.route;
    let within = |path: &str, other: &str| {
        let other = other.trim_end_matches('/');
        path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    others.iter().find_map(|other| {
        let its = &other.route;
        let host = mine.hosts.iter().find(|host| its.hosts.contains(host))?;
        let in_paths = its.paths.is_empty() || mine.paths.iter().any(|path| its.paths.iter().any(|other| within(path, other)));
        // What both have alike is told elsewhere.
        let alike = mine.paths == its.paths && mine.headers == its.headers;
        // Who says which header fields requests must have may have them of a part.
        let all = its.paths.is_empty() && its.headers.is_empty();
        let part = in_paths && !alike && (all || its.headers == mine.headers);
        let (owner, name) = (&other.config.name, &plan.config.name);
        (part && owner != name).then(|| match all {
            true => format!("host `{host}` is service `{owner}`'s as a whole, and `{name}` wants a part of it"),
            false => format!("service `{owner}` has some requests of host `{host}`, and `{name}` wants a part of them"),
        })
    })
}

/// Where a manifest's program is.
fn beside(manifest: &Path) -> ModuleSource {
    ModuleSource::File(manifest.parent().unwrap_or(Path::new("")).join("bin/main.wasm"))
}

/// What the host says of a service.
fn with_host(mut config: Config, host: &HostConfig) -> Config {
    config.dynamic_targets = host.dynamic_targets.clone();
    if host.backend_http2 {
        let plain = config.backends.values_mut().filter(|backend| backend.http == HttpVersions::One);
        plain.for_each(|backend| backend.http = HttpVersions::Either);
    }
    config.state = host.state.clone();
    config.grip_proxy = host.grip_proxy.or(config.grip_proxy);
    config.limits = host.limits.guest.clone();
    config.environment = host.environment.clone();
    config
}
