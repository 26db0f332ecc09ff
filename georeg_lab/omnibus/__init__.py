"""Stand-ins for the Linux package: gitlab.rb, reconfigure, gitlab-ctl, the supervisor, and the wrappers in /opt/gitlab."""
