"""Stand-ins for the Linux package: gitlab.rb, reconfigure, gitlab-ctl, supervisor, and wrappers of its programs."""
