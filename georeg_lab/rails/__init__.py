"""GitLab's Rails side of registry replication: API, tokens, events, the sync and its verification, Rake, runner.

Real HTTP, real databases, and what the real one does wrong included. Sources are named as in the project's references:
"rails" is `gitlab-rails.md`, "procedures" is `gitlab-procedures.md`.
"""
