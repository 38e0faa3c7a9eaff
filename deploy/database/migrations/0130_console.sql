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

CREATE TABLE IF NOT EXISTS console_backtests (
    backtest_id uuid PRIMARY KEY,
    user_name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    status text NOT NULL CHECK (status IN ('running', 'done', 'failed', 'cancelled')),
    request jsonb NOT NULL,
    result jsonb,
    error text
);
COMMENT ON TABLE console_backtests IS 'Replays that were started in the console; their reports are files.';
