//! Development mode: only on this machine, with a secret that is made up once and kept in a file that only its owner reads.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{Error, Settings};
use crate::domain::secret::Secret;

/// The longest secret file that is read, bytes.
const FILE_BYTES: u64 = 4096;

pub(super) fn prepare(settings: &mut Settings, environment: &[(OsString, OsString)]) -> Result<(), Error> {
    let server = &settings.server;
    for (name, address) in [("server.listen", Some(server.listen)), ("server.ops_listen", server.ops_listen)] {
        if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
            return Err(Error(format!(
                "`{name}` is {address}, but development mode lets everybody in and so takes only addresses of this \
                 machine, such as 127.0.0.1:8080"
            )));
        }
    }
    if settings.auth.hs256_secret.is_none() {
        settings.auth.hs256_secret = Some(secret(&state_folder(environment)?)?);
    }
    Ok(())
}

fn state_folder(environment: &[(OsString, OsString)]) -> Result<PathBuf, Error> {
    let folder = |variable: &str| {
        let (_, value) = environment.iter().find(|(name, _)| name == variable)?;
        Some(PathBuf::from(value)).filter(|path| path.is_absolute())
    };
    let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("rollcall")).ok_or_else(|| {
        Error("development mode keeps its secret under XDG_STATE_HOME or HOME, and neither names a folder".to_owned())
    })
}

/// The secret in `folder`, made up when there is none.
fn secret(folder: &Path) -> Result<Secret, Error> {
    let path = folder.join("development.secret");
    let failed =
        |why: io::Error| Error(format!("the secret of development mode cannot be kept in {}: {why}", path.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    if fs::symlink_metadata(&path).is_err_and(|why| why.kind() == io::ErrorKind::NotFound) {
        create(folder, &path).map_err(failed)?;
    }
    read(&path)
}

/// Writes beside and links: two servers that start at once agree on one secret, and none reads half of it.
fn create(folder: &Path, path: &Path) -> io::Result<()> {
    let random = |bytes: [u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
    let beside = folder.join(format!(".development.secret.{}", random(rand::random())));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let linked = writeln!(file, "{}", random(rand::random())).and_then(|()| fs::hard_link(&beside, path));
    fs::remove_file(&beside)?;
    match linked {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

fn read(path: &Path) -> Result<Secret, Error> {
    let shown = path.display();
    let failed = |why: io::Error| Error(format!("the secret of development mode in {shown} cannot be read: {why}"));
    let listed = fs::symlink_metadata(path).map_err(failed)?;
    if !listed.is_file() {
        return Err(Error(format!(
            "{shown} must be a plain file, not a link or anything else, because development mode keeps its secret \
             there: remove it"
        )));
    }
    let file = File::open(path).map_err(failed)?;
    let opened = file.metadata().map_err(failed)?;
    if (listed.dev(), listed.ino()) != (opened.dev(), opened.ino()) {
        return Err(Error(format!("{shown} was replaced while it was read: start again")));
    }
    if opened.mode() & 0o077 != 0 {
        return Err(Error(format!(
            "{shown} is open to others (mode {:o}), so its secret is none: remove it, and a new one is made",
            opened.mode() & 0o777
        )));
    }
    let mut text = String::new();
    file.take(FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    match text.trim() {
        secret if secret.len() < 32 => {
            Err(Error(format!("{shown} holds no secret of 32 bytes: remove it, and a new one is made")))
        }
        secret => Ok(secret.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_secret_is_made_once_and_only_its_owner_can_read_it() {
        let home = tempfile::tempdir().unwrap();
        let folder = state_folder(&[("XDG_STATE_HOME".into(), home.path().into())]).unwrap();
        let made = secret(&folder).unwrap();
        assert!(made.expose().len() >= 32);
        assert_eq!(secret(&folder).unwrap(), made);
        assert_eq!(mode(&folder.join("development.secret")), 0o600);
        assert_eq!(mode(&folder), 0o700);
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["development.secret"]);
    }

    #[test]
    fn servers_that_start_at_once_agree_on_one_secret() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("rollcall");
        let secrets: Vec<Secret> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..8).map(|_| scope.spawn(|| secret(&folder).unwrap())).collect();
            starting.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let home = tempfile::tempdir().unwrap();
        secret(home.path()).unwrap();
        let path = home.path().join("development.secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let why = secret(home.path()).unwrap_err().0;
        assert!(why.contains("mode 640"), "{why}");
    }

    #[test]
    fn links_folders_and_short_secrets_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("development.secret");
        for target in ["elsewhere", "/dev/null"] {
            symlink(target, &path).unwrap();
            let why = secret(home.path()).unwrap_err().0;
            assert!(why.contains("must be a plain file"), "{why}");
            fs::remove_file(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        assert!(secret(home.path()).unwrap_err().0.contains("must be a plain file"));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "hunter2").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let why = secret(home.path()).unwrap_err().0;
        assert!(why.contains("32 bytes") && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn the_state_folder_follows_the_environment() {
        let folder = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(OsString, OsString)> = pairs.iter().map(|(a, b)| (a.into(), b.into())).collect();
            state_folder(&pairs).ok()
        };
        assert_eq!(folder(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Some("/s/rollcall".into()));
        assert_eq!(folder(&[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]), Some("/h/.local/state/rollcall".into()));
        assert_eq!(folder(&[("HOME", "")]), None);
    }
}
