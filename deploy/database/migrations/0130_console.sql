-- The console's own tables: users, sessions, invitations, the audit log of commands, annotations on charts, stored backtests.

CREATE TABLE IF NOT EXISTS console_users (
    user_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    email text UNIQUE,
    password_hash text NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'user', 'operator', 'admin', 'owner')),
    banned boolean NOT NULL DEFAULT false,
    totp_secret text,
    totp_last_step bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE console_users IS 'People who may log in to the console.';
COMMENT ON COLUMN console_users.user_id IS 'Number of the user.';
COMMENT ON COLUMN console_users.name IS 'Name for the login; unique.';
COMMENT ON COLUMN console_users.email IS 'E-mail address; null: not given.';
COMMENT ON COLUMN console_users.role IS 'viewer, user, operator, admin or owner.';
COMMENT ON COLUMN console_users.banned IS 'True: the user may not log in.';
COMMENT ON COLUMN console_users.created_at IS 'When the user was added.';
COMMENT ON COLUMN console_users.password_hash IS 'Argon2id, with its parameters.';
COMMENT ON COLUMN console_users.totp_secret IS 'Base32 secret of the second factor; null: the user has none.';
COMMENT ON COLUMN console_users.totp_last_step IS 'The newest 30 s step whose code was used; a code counts once.';

CREATE TABLE IF NOT EXISTS console_sessions (
    session_id uuid PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES console_users,
    refresh_hash bytea NOT NULL UNIQUE,
    previous_hash bytea,
    rotated_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    address text NOT NULL DEFAULT '',
    agent text NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS console_sessions_user ON console_sessions (user_id);
CREATE INDEX IF NOT EXISTS console_sessions_previous ON console_sessions (previous_hash);
COMMENT ON TABLE console_sessions IS 'Logins. A refresh token counts once; the use of an older one revokes the session.';
COMMENT ON COLUMN console_sessions.session_id IS 'Id of the session.';
COMMENT ON COLUMN console_sessions.user_id IS 'Whose session it is.';
COMMENT ON COLUMN console_sessions.rotated_at IS 'When the refresh token was last replaced.';
COMMENT ON COLUMN console_sessions.created_at IS 'When the login happened.';
COMMENT ON COLUMN console_sessions.expires_at IS 'When the session ends if nobody uses it.';
COMMENT ON COLUMN console_sessions.revoked_at IS 'When it was ended; null: it was not.';
COMMENT ON COLUMN console_sessions.address IS 'Network address of the login.';
COMMENT ON COLUMN console_sessions.agent IS 'Name that the browser or program gave.';
COMMENT ON COLUMN console_sessions.refresh_hash IS 'SHA-256 of the newest refresh token.';
COMMENT ON COLUMN console_sessions.previous_hash IS 'SHA-256 of the token before it: its use is a race within seconds, and a theft later.';

CREATE TABLE IF NOT EXISTS console_invitations (
    code text PRIMARY KEY,
    role text NOT NULL CHECK (role IN ('viewer', 'user', 'operator', 'admin')),
    max_uses integer NOT NULL CHECK (max_uses > 0),
    used integer NOT NULL DEFAULT 0,
    expires_at timestamptz,
    disabled boolean NOT NULL DEFAULT false,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE console_invitations IS 'Codes with which people register.';
COMMENT ON COLUMN console_invitations.code IS 'The code.';
COMMENT ON COLUMN console_invitations.role IS 'Role that a new user gets.';
COMMENT ON COLUMN console_invitations.max_uses IS 'How many people may register with it.';
COMMENT ON COLUMN console_invitations.used IS 'How many have.';
COMMENT ON COLUMN console_invitations.expires_at IS 'When it ends; null: never.';
COMMENT ON COLUMN console_invitations.disabled IS 'True: it was withdrawn.';
COMMENT ON COLUMN console_invitations.created_by IS 'Who invited.';
COMMENT ON COLUMN console_invitations.created_at IS 'When.';

CREATE TABLE IF NOT EXISTS console_audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    user_name text NOT NULL,
    address text NOT NULL,
    action text NOT NULL,
    target text NOT NULL DEFAULT '',
    before jsonb,
    after jsonb,
    outcome text NOT NULL
);
CREATE INDEX IF NOT EXISTS console_audit_at ON console_audit (at DESC);
COMMENT ON TABLE console_audit IS 'Every command and login, appended only: who, when, from where, what, before, after.';
COMMENT ON COLUMN console_audit.audit_id IS 'Number of the row; it rises.';
COMMENT ON COLUMN console_audit.at IS 'When.';
COMMENT ON COLUMN console_audit.user_name IS 'Who.';
COMMENT ON COLUMN console_audit.address IS 'From which network address.';
COMMENT ON COLUMN console_audit.action IS 'What: subject and verb, such as strategy.pause.';
COMMENT ON COLUMN console_audit.target IS 'Of what: a name or id.';
COMMENT ON COLUMN console_audit.before IS 'State before; null: there is none.';
COMMENT ON COLUMN console_audit.after IS 'State after; null: there is none.';
COMMENT ON COLUMN console_audit.outcome IS 'started, done, refused or failed with the reason.';

CREATE TABLE IF NOT EXISTS console_annotations (
    annotation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_name text NOT NULL,
    instrument text NOT NULL,
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL CHECK (to_time > from_time),
    label text NOT NULL,
    note text NOT NULL DEFAULT '',
    version integer NOT NULL DEFAULT 1,
    deleted boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS console_annotations_of ON console_annotations (instrument, from_time);
COMMENT ON TABLE console_annotations IS 'Stretches of a chart that a person marked, with label and text.';
COMMENT ON COLUMN console_annotations.annotation_id IS 'Number of the annotation.';
COMMENT ON COLUMN console_annotations.user_name IS 'Whose it is.';
COMMENT ON COLUMN console_annotations.instrument IS 'Instrument id.';
COMMENT ON COLUMN console_annotations.from_time IS 'Start of the stretch, UTC.';
COMMENT ON COLUMN console_annotations.to_time IS 'End of the stretch, UTC.';
COMMENT ON COLUMN console_annotations.label IS 'Kind of stretch, such as pre-rise.';
COMMENT ON COLUMN console_annotations.note IS 'Text.';
COMMENT ON COLUMN console_annotations.version IS 'Number of the edit; it rises.';
COMMENT ON COLUMN console_annotations.deleted IS 'True: it was deleted.';
COMMENT ON COLUMN console_annotations.created_at IS 'When it was made.';
COMMENT ON COLUMN console_annotations.updated_at IS 'When it was last changed.';

-- The first and the last evaluation of a strategy bound the period of its statistics; without it they are searched among those of all strategies.
CREATE INDEX IF NOT EXISTS scores_strategy ON scores (instrument, strategy_id, event_time);

CREATE TABLE IF NOT EXISTS console_backtests (
    backtest_id uuid PRIMARY KEY,
    user_name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    status text NOT NULL CHECK (status IN ('running', 'done', 'failed', 'cancelled', 'interrupted')),
    request jsonb NOT NULL,
    place text NOT NULL,
    beat_at timestamptz NOT NULL DEFAULT now(),
    progress jsonb,
    result jsonb,
    error text
);
CREATE INDEX IF NOT EXISTS console_backtests_at ON console_backtests (created_at DESC, backtest_id DESC);
COMMENT ON TABLE console_backtests IS 'Replays that were started in the console, with their reports.';
COMMENT ON COLUMN console_backtests.backtest_id IS 'Id of the replay.';
COMMENT ON COLUMN console_backtests.user_name IS 'Who started it.';
COMMENT ON COLUMN console_backtests.created_at IS 'When it began.';
COMMENT ON COLUMN console_backtests.finished_at IS 'When it ended; null: it runs.';
COMMENT ON COLUMN console_backtests.status IS 'running, done, failed, cancelled, or interrupted: nobody watched the process any more.';
COMMENT ON COLUMN console_backtests.request IS 'What was asked for.';
COMMENT ON COLUMN console_backtests.place IS 'Machine, process id and start time of the job.';
COMMENT ON COLUMN console_backtests.beat_at IS 'When a console last saw the job.';
COMMENT ON COLUMN console_backtests.progress IS 'Phase, records done and their total; null: not known yet.';
COMMENT ON COLUMN console_backtests.result IS 'Its report (report.json); null: there is none.';
COMMENT ON COLUMN console_backtests.error IS 'Why it failed; null: it did not.';
