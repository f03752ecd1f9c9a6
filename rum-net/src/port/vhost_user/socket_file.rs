//! The file of a slave's socket: made, replaced when stale, removed.

use std::{
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use super::handshake;

/// Why a socket could not be served.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BindError {
    /// A live process answers on the path.
    #[error("another process serves {0}")]
    InUse(PathBuf),
    /// The path is taken by something else.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// A Unix socket's path is at most 107 bytes.
    #[error("the socket path {0} is longer than 107 bytes")]
    PathTooLong(PathBuf),
    /// The directory does not exist.
    #[error("no such directory for the socket {0}")]
    NoSuchDirectory(PathBuf),
    /// The directory may not be written.
    #[error("permission denied for the socket {0}")]
    PermissionDenied(PathBuf),
    /// Anything else the system says.
    #[error("cannot serve the socket {0}: {1}")]
    Io(PathBuf, #[source] Errno),
}

impl BindError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io(path.to_owned(), error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
    }
}

/// The socket's file, removed on drop if it is still the one that was made, and by the process that made it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
    process: u32,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.process == std::process::id() && self.identity.is_some() && identity(&self.path) == self.identity {
            // Nobody is left to tell if it fails.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Listens on `path` by a socket file with permissions `mode`. A file that a killed process left is replaced.
pub(super) fn serve(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), BindError> {
    let socket = bind_socket(path, mode)?;
    let file = SocketFile { identity: identity(path), process: std::process::id(), path: path.to_owned() };
    Ok((socket, file))
}

/// A listening socket whose file has its permissions from the start.
fn bind_socket(path: &Path, mode: u32) -> Result<UnixListener, BindError> {
    let (address, length) = handshake::socket_address(path).ok_or_else(|| BindError::PathTooLong(path.to_owned()))?;
    let io_error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => BindError::NoSuchDirectory(path.to_owned()),
        io::ErrorKind::PermissionDenied => BindError::PermissionDenied(path.to_owned()),
        _ => BindError::io(path, &error),
    };
    let socket = handshake::new_socket().map_err(io_error)?;
    // SAFETY: fchmod without pointers. Before bind it sets what the file will be made with.
    if unsafe { libc::fchmod(socket.as_raw_fd(), mode as libc::mode_t) } != 0 {
        return Err(io_error(io::Error::last_os_error()));
    }
    // SAFETY: `address` is a filled sockaddr_un of `length` bytes.
    let bind = || match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            bind().map_err(io_error)?;
        }
        result => result.map_err(io_error)?,
    }
    // The file was made with no more than `mode`; this adds what the umask has taken away.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io_error)?;
    // SAFETY: listen without pointers.
    if unsafe { libc::listen(socket.as_raw_fd(), 4096) } != 0 {
        return Err(io_error(io::Error::last_os_error()));
    }
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true).map_err(io_error)?;
    Ok(listener)
}

/// Removes a socket file that nobody serves.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let io_error = |error: io::Error| BindError::io(path, &error);
    let meta = std::fs::symlink_metadata(path).map_err(io_error)?;
    if !meta.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    let (address, length) = handshake::socket_address(path).ok_or_else(|| BindError::PathTooLong(path.to_owned()))?;
    let probe = handshake::new_socket().map_err(io_error)?;
    let probe = UnixStream::from(probe);
    probe.set_nonblocking(true).map_err(io_error)?;
    // SAFETY: `address` is a filled sockaddr_un of `length` bytes; the socket does not block.
    let connected = unsafe { libc::connect(probe.as_raw_fd(), (&raw const address).cast(), length) } == 0;
    let refused = io::Error::last_os_error().kind() == io::ErrorKind::ConnectionRefused;
    if connected || !refused {
        return Err(BindError::InUse(path.to_owned()));
    }
    std::fs::remove_file(path).map_err(io_error)
}
