//! What a client is told from outside: the environment, and through it machines.csv.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use rum_net::{
    seal::{ClientKey, KeyFile, KeyFileError, is_name},
    units::available_bytes,
};

use crate::fault::EngineKind;

pub use rum_net::{
    machines::{Machine, Machines, MachinesError, parse_machines},
    units::parse_bytes,
};

/// The least local budget in bytes: one instruction may touch several pages at once, and each running thread needs its own.
pub const MIN_LOCAL_BUDGET_BYTES: u64 = 64 << 10;

/// All that `Grid::join` needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The slaves.
    pub machines: Vec<Machine>,
    /// How many of them keep each page: 1, 3 or 5.
    pub replication_factor: usize,
    /// The most bytes of the region that may be resident.
    pub local_budget_bytes: u64,
    /// The engine asked for, or `None` for the best this machine allows.
    pub engine: Option<EngineKind>,
    /// Who this client is, and the key that proves it; `None` where slaves ask for none.
    pub key: Option<ClientKey>,
}

/// What is wrong with machines.csv or the environment; one line that names file, line and column.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// machines.csv.
    #[error(transparent)]
    Machines(#[from] MachinesError),
    /// An environment variable is wrong.
    #[error("{name}={value:?}: expected {expected}")]
    Environment {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What should stand there.
        expected: String,
    },
    /// The key file is wrong.
    #[error("RUM_KEY={0}")]
    Key(#[from] KeyFileError),
    /// A name, but no file to look it up in.
    #[error("RUM_KEY_NAME={0:?}: expected RUM_KEY to name the key file as well")]
    KeyNameAlone(String),
    /// No file was named.
    #[error("no machines.csv: pass its path, set RUM_MACHINES, or run the program under `rum local -- PROGRAM`")]
    NoMachines,
}

impl Config {
    /// Reads `machines`, or the file that `RUM_MACHINES` names, and `RUM_LOCAL_BUDGET`, `RUM_FAULT_ENGINE`, `RUM_PORT`, `RUM_KEY`
    /// and `RUM_KEY_NAME`.
    ///
    /// Without `RUM_LOCAL_BUDGET` the budget is half of the memory that is available now.
    pub fn from_env(machines: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_variables(machines, &|name| env::var_os(name))
    }

    /// What `RUM_KEY` and `RUM_KEY_NAME` say of who this client is.
    pub fn key_from_env() -> Result<Option<ClientKey>, ConfigError> {
        read_key(&|name| env::var_os(name))
    }

    fn from_variables(
        machines: Option<&Path>,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let path = match machines {
            Some(path) => path.to_owned(),
            None => PathBuf::from(variable("RUM_MACHINES").filter(|v| !v.is_empty()).ok_or(ConfigError::NoMachines)?),
        };
        let default_link = parsed(variable, "RUM_PORT", "a port such as af_packet:eth1", |text| text.parse().ok())?;
        let engine = parsed(variable, "RUM_FAULT_ENGINE", "uffd-thread, uffd-inline or sigsegv", |t| t.parse().ok())?;
        let budget = parsed(variable, "RUM_LOCAL_BUDGET", "a size of 64K or more, such as 64M or 1.5G", |text| {
            parse_bytes(text).filter(|bytes| *bytes >= MIN_LOCAL_BUDGET_BYTES)
        })?;
        let Machines { slaves, replication_factor } = Machines::read(&path, default_link.as_ref())?;
        let key = read_key(variable)?;
        let local_budget_bytes = budget.unwrap_or_else(default_budget_bytes);
        Ok(Self { machines: slaves, replication_factor, local_budget_bytes, engine, key })
    }
}

/// The line of the file `RUM_KEY` that `RUM_KEY_NAME` names; without that name, its only line.
fn read_key(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<ClientKey>, ConfigError> {
    let name = parsed(variable, "RUM_KEY_NAME", "a client's name in the key file", |text| {
        is_name(text).then(|| text.to_owned())
    })?;
    match (variable("RUM_KEY").filter(|path| !path.is_empty()), name) {
        (Some(path), name) => {
            let file = KeyFile::read(Path::new(&path))?;
            Ok(Some(file.choose(name.as_deref())?.clone()))
        }
        (None, Some(name)) => Err(ConfigError::KeyNameAlone(name)),
        (None, None) => Ok(None),
    }
}

/// Reads an environment variable; an empty one counts as unset.
fn parsed<T>(
    variable: &dyn Fn(&str) -> Option<OsString>,
    name: &str,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ConfigError> {
    let Some(value) = variable(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let wrong = || ConfigError::Environment {
        name: name.to_owned(),
        value: value.to_string_lossy().into_owned(),
        expected: expected.to_owned(),
    };
    value.to_str().and_then(parse).map(Some).ok_or_else(wrong)
}

/// Half of the memory that is available now; 1 GiB if the kernel does not say.
fn default_budget_bytes() -> u64 {
    std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| half_available(&text)).unwrap_or(1 << 30)
}

fn half_available(meminfo: &str) -> Option<u64> {
    Some((available_bytes(meminfo)? / 2).max(MIN_LOCAL_BUDGET_BYTES))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rum_net::port::spec::PortSpec;

    use super::*;

    fn machines_file() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"127.0.0.1,02:00:00:00:00:01,vhost:/run/rum/0\n").unwrap();
        file
    }

    fn with(path: Option<&Path>, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(path, &|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn sizes() {
        let cases: [(&str, Option<u64>); 24] = [
            ("4096", Some(4096)),
            ("4096B", Some(4096)),
            (" 64K ", Some(64 << 10)),
            ("512M", Some(512 << 20)),
            ("512m", Some(512 << 20)),
            ("512MiB", Some(512 << 20)),
            ("512MB", Some(512 << 20)),
            ("1.5G", Some(3 << 29)),
            ("0.25K", Some(256)),
            ("2T", Some(2 << 40)),
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("16777216T", None),
            ("", None),
            ("M", None),
            (".5M", None),
            ("5.M", None),
            ("1.5", None),
            ("1.2.3M", None),
            ("-1M", None),
            ("1 M", None),
            ("1X", None),
            ("1Mx", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn environment_names_the_file_and_the_budget() {
        let file = machines_file();
        let path = file.path().to_str().unwrap();
        let config =
            with(None, &[("RUM_MACHINES", path), ("RUM_LOCAL_BUDGET", "64M"), ("RUM_FAULT_ENGINE", "uffd-inline")])
                .unwrap();
        assert_eq!(config.local_budget_bytes, 64 << 20);
        assert_eq!(config.engine, Some(EngineKind::UffdInline));
        assert_eq!(config.machines.len(), 1);
        assert_eq!(config.machines[0].link, PortSpec::Vhost("/run/rum/0".into()).into());
    }

    #[test]
    fn an_argument_wins_over_the_environment() {
        let file = machines_file();
        let config = with(Some(file.path()), &[("RUM_MACHINES", "/does/not/exist")]).unwrap();
        assert_eq!(config.engine, None);
        assert!(config.local_budget_bytes >= MIN_LOCAL_BUDGET_BYTES);
    }

    #[test]
    fn no_file_named() {
        assert_eq!(with(None, &[]), Err(ConfigError::NoMachines));
        assert_eq!(with(None, &[("RUM_MACHINES", "")]), Err(ConfigError::NoMachines));
    }

    #[test]
    fn missing_file_says_what_to_write() {
        let error = with(None, &[("RUM_MACHINES", "/does/not/exist")]).unwrap_err().to_string();
        assert!(error.starts_with("/does/not/exist: cannot read machines.csv: No such file"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn wrong_variables() {
        let file = machines_file();
        let cases = [
            ("RUM_LOCAL_BUDGET", "lots", "RUM_LOCAL_BUDGET=\"lots\": expected a size"),
            ("RUM_LOCAL_BUDGET", "0", "RUM_LOCAL_BUDGET=\"0\": expected a size of 64K or more"),
            ("RUM_FAULT_ENGINE", "magic", "RUM_FAULT_ENGINE=\"magic\": expected uffd-thread, uffd-inline or sigsegv"),
            ("RUM_PORT", "eth1", "RUM_PORT=\"eth1\": expected a port such as af_packet:eth1"),
        ];
        for (name, value, start) in cases {
            let error = with(Some(file.path()), &[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }

    fn key_file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        use std::os::unix::fs::PermissionsExt;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn the_key_and_whose_it_is() {
        let machines = machines_file();
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let own = key_file(&format!("me {one}\n"), 0o600);
        let all = key_file(&format!("me {one}\nyou {two} 4G\n"), 0o400);
        let open = key_file(&format!("me {one}\n"), 0o640);
        let [own, all, open] = [&own, &all, &open].map(|file| file.path().to_str().unwrap());
        let key = |variables: &[(&str, &str)]| {
            let key = with(Some(machines.path()), variables).map(|config| config.key);
            key.map(|key| key.map(|client| (client.name, client.quota_bytes))).map_err(|error| error.to_string())
        };
        assert_eq!(key(&[]), Ok(None));
        assert_eq!(key(&[("RUM_KEY", "")]), Ok(None));
        assert_eq!(key(&[("RUM_KEY", own)]), Ok(Some(("me".to_owned(), None))));
        assert_eq!(key(&[("RUM_KEY", all), ("RUM_KEY_NAME", "you")]), Ok(Some(("you".to_owned(), Some(4 << 30)))));
        let cases = [
            (vec![("RUM_KEY", all)], format!("RUM_KEY={all}: 2 clients in it; set RUM_KEY_NAME")),
            (vec![("RUM_KEY", own), ("RUM_KEY_NAME", "you")], format!("RUM_KEY={own}: no client \"you\" in it")),
            (vec![("RUM_KEY", open)], format!("RUM_KEY={open}: others may read or change it (mode 0640): chmod 600")),
            (vec![("RUM_KEY", "/none")], "RUM_KEY=/none: cannot read keys: No such file".to_owned()),
            (vec![("RUM_KEY_NAME", "me")], "RUM_KEY_NAME=\"me\": expected RUM_KEY to name".to_owned()),
            (
                vec![("RUM_KEY", own), ("RUM_KEY_NAME", "m e")],
                "RUM_KEY_NAME=\"m e\": expected a client's name".to_owned(),
            ),
        ];
        for (variables, expected) in cases {
            let said = key(&variables).unwrap_err();
            assert!(said.starts_with(&expected) && said.lines().count() == 1, "{said}");
        }
    }

    #[test]
    fn half_of_what_is_available() {
        assert_eq!(half_available("MemTotal: 9 kB\nMemAvailable:   2097152 kB\n"), Some(1 << 30));
        assert_eq!(half_available("MemTotal: 9 kB\n"), None);
    }
}
