//! Control groups, version 1: a hierarchy for each resource. Groups go under the spawner's own, so that they count against whatever holds it.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Backend, Controller, Group, Limits, PERIOD_US, directory, mounted, own_path, remove_leftovers, writable};

/// The hierarchies that are there and ours to write.
pub(super) struct V1 {
    parents: Vec<(Controller, PathBuf)>,
}

/// Finds them; `None` when there is not one.
pub(super) fn detect(own: &str, mounts: &str) -> Option<V1> {
    let parents: Vec<_> = Controller::ALL
        .into_iter()
        .filter_map(|controller| Some((controller, parent(own, mounts, controller)?)))
        .collect();
    (!parents.is_empty()).then_some(V1 { parents })
}

fn parent(own: &str, mounts: &str, controller: Controller) -> Option<PathBuf> {
    let names = |list: &str| list.split(',').any(|name| name == controller.name());
    let path = own_path(own, names)?;
    let (root, point) = mounted(mounts, |kind, options| kind == "cgroup" && names(options))?;
    directory(path, root, point).filter(|directory| writable(directory))
}

impl Backend for V1 {
    fn controllers(&self) -> Vec<Controller> {
        self.parents.iter().map(|(controller, _)| *controller).collect()
    }

    fn create(&self, name: &str) -> io::Result<Group> {
        let mut directories = Vec::new();
        for (controller, parent) in &self.parents {
            let path = parent.join(name);
            if !directories.iter().any(|(_, made)| *made == path) {
                if name.ends_with("-1") {
                    remove_leftovers(parent);
                }
                fs::create_dir(&path)?;
            }
            directories.push((*controller, path));
        }
        Ok(Group { directories })
    }

    fn limit(&self, group: &Group, limits: &Limits) -> io::Result<()> {
        for (controller, path) in &group.directories {
            match controller {
                Controller::Memory => {
                    fs::write(path.join("memory.limit_in_bytes"), limits.memory_bytes.to_string())?;
                    // Memory and swap together; kernels without swap accounting lack the file.
                    match fs::write(path.join("memory.memsw.limit_in_bytes"), limits.memory_bytes.to_string()) {
                        Err(error)
                            if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
                        {
                            return Err(error);
                        }
                        _ => {}
                    }
                }
                Controller::Pids => fs::write(path.join("pids.max"), limits.processes.to_string())?,
                Controller::Cpu => {
                    fs::write(path.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                    fs::write(path.join("cpu.cfs_quota_us"), limits.quota_us().to_string())?;
                }
            }
        }
        Ok(())
    }
}
