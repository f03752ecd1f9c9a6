//! The middlewares that a user asked for, on whatever port is opened.

use std::{env, ffi::OsString, path::PathBuf};

use super::{
    Port,
    capture::{Capture, CaptureError},
    inject::{Faults, FaultsError, Inject},
};

/// What a client's packets are to suffer: faults, as `rum-slave --inject` has them.
pub const INJECT_VARIABLE: &str = "RUM_INJECT";
/// Where a client's packets are to be captured.
pub const CAPTURE_VARIABLE: &str = "RUM_CAPTURE";

/// What to stack on a port.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Middlewares {
    /// Faults, on top of the capture: it shows what is on the wire.
    pub faults: Option<Faults>,
    /// The file to capture packets in; a number is put into the name while another port writes it.
    pub capture: Option<PathBuf>,
}

/// Middlewares that cannot be had, in one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MiddlewareError {
    /// Of the environment.
    #[error("{INJECT_VARIABLE}: {0}")]
    Faults(FaultsError),
    /// A file that cannot be written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

impl Middlewares {
    /// What the environment of this process asks for, by `RUM_INJECT` and `RUM_CAPTURE`; an empty value asks for nothing.
    pub fn from_env() -> Result<Self, MiddlewareError> {
        let value = |name| env::var_os(name).filter(|value| !value.is_empty());
        let faults = value(INJECT_VARIABLE)
            .map(|text: OsString| text.to_string_lossy().parse().map_err(MiddlewareError::Faults));
        Ok(Self { faults: faults.transpose()?, capture: value(CAPTURE_VARIABLE).map(PathBuf::from) })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Stacks them on a port; its name says so.
    pub fn put_on(&self, mut port: Box<dyn Port>) -> Result<Box<dyn Port>, CaptureError> {
        if let Some(path) = &self.capture {
            port = Box::new(Capture::new(port, path)?);
        }
        if let Some(faults) = self.faults {
            port = Box::new(Inject::new(port, faults));
        }
        Ok(port)
    }
}
