// The images that starts are measured on: what makes each, what stands for its application when it is examined, and the
// first request whose right answer ends the start. `heldOut`: never looked at while lib/stream is tuned.
import { consoleSays, httpGet, imapInbox, mysqlQuery, postgresQuery, redisGet } from './requests.mjs'

const unit = (description, lines) => `[Unit]
Description=${description}
After=network.target

[Service]
${lines.join('\n')}

[Install]
WantedBy=multi-user.target
`

/** The same text each time, so that pages have a size. */
const paragraphs = count => Array.from({ length: count }, (_, i) => `Paragraph ${i}: ${'a machine that starts while its image comes. '.repeat(6)}`)

const document = `<?xml version="1.0" encoding="UTF-8"?>
<office:document xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" office:version="1.2" office:mimetype="application/vnd.oasis.opendocument.text">
<office:body><office:text><text:h text:outline-level="1">Report</text:h>
${paragraphs(60).map(text => `<text:p>${text}</text:p>`).join('\n')}
</office:text></office:body></office:document>
`

const mail = Array.from({ length: 5 }, (_, i) => `From sender@example.org Mon Jan  1 00:00:0${i} 2024
From: sender@example.org
To: reader@example.org
Subject: Message ${i}
Message-Id: <${i}@example.org>

${paragraphs(5).join('\n')}

`).join('')

const flask = `from flask import Flask, jsonify, render_template
app = Flask(__name__)

@app.route('/')
def front():
    return render_template('front.html', numbers=range(20))

@app.route('/health')
def health():
    return jsonify(ok=True)
`

const express = `const express = require('express')
const app = express()
app.get('/', (request, response) => response.send('<p>' + 'served by express</p>'.repeat(20)))
app.listen(8000, '0.0.0.0')
`

const jsp = `<%@ page contentType="text/html;charset=UTF-8" import="java.util.*" %>
<% List<String> words = new ArrayList<>(); for (int i = 0; i < 20; i++) words.add("served by tomcat"); %>
<p><%= String.join(", ", words) %></p>
`

const php = `<?php
$base = new PDO('sqlite:/srv/words.sqlite');
foreach ($base->query('SELECT word FROM words') as $row) echo '<p>', htmlspecialchars($row['word']), '</p>';
`

const report = `#!/bin/sh
export HOME=/root
cd /tmp || exit 1
soffice --headless --convert-to pdf --outdir /tmp /srv/report.fodt
[ "$(head -c 5 /tmp/report.pdf)" = %PDF- ] && echo "the report has $(wc -c < /tmp/report.pdf) bytes" > /dev/ttyS0
`

const images = [
  {
    name: 'nginx',
    packages: ['nginx'],
    files: { '/var/www/html/index.html': `<p>served by nginx</p>\n${paragraphs(40).join('\n')}\n` },
    application: ['/usr/sbin/nginx'],
    port: 80,
    request: httpGet('/', 'served by nginx')
  },
  {
    name: 'postgresql',
    packages: ['postgresql'],
    setup: `
echo "listen_addresses = '*'" > /etc/postgresql/15/main/conf.d/open.conf
echo 'host all all 10.0.2.0/24 trust' >> /etc/postgresql/15/main/pg_hba.conf
pg_ctlcluster 15 main start
su postgres -c 'psql -q' <<'END'
CREATE TABLE words (id serial PRIMARY KEY, word text);
INSERT INTO words (word) SELECT 'word ' || n FROM generate_series(1, 20000) AS n;
INSERT INTO words (word) VALUES ('served by postgresql');
CREATE INDEX ON words (word);
END
pg_ctlcluster 15 main stop`,
    application: ['/usr/lib/postgresql/15/bin/postgres'],
    port: 5432,
    request: postgresQuery('postgres', "SELECT word FROM words WHERE word LIKE 'served%'", 'served by postgresql')
  },
  {
    name: 'flask',
    packages: ['gunicorn', 'python3-flask'],
    files: {
      '/srv/app/app.py': flask,
      '/srv/app/templates/front.html': '{% for number in numbers %}<p>served by flask, {{ number }}</p>{% endfor %}\n',
      '/etc/systemd/system/app.service': unit('The application', ['User=www-data', 'WorkingDirectory=/srv/app', 'ExecStart=/usr/bin/gunicorn -w 2 -b 0.0.0.0:8000 app:app'])
    },
    setup: 'systemctl enable app.service',
    application: ['/usr/bin/gunicorn', '/srv/app'],
    port: 8000,
    request: httpGet('/', 'served by flask, 19')
  },
  {
    name: 'tomcat',
    packages: ['openjdk-17-jre-headless', 'tomcat10'],
    memory: '1GiB',
    files: { '/var/lib/tomcat10/webapps/ROOT/index.jsp': jsp },
    setup: 'rm -f /var/lib/tomcat10/webapps/ROOT/index.html',
    application: ['/usr/lib/jvm/java-17-openjdk-amd64/bin/java', '/usr/libexec/tomcat10/tomcat-start.sh'],
    port: 8080,
    request: httpGet('/', 'served by tomcat, served by tomcat')
  },
  {
    name: 'php',
    packages: ['apache2', 'libapache2-mod-php', 'php-sqlite3', 'sqlite3'],
    files: { '/var/www/html/index.php': php },
    setup: `
rm -f /var/www/html/index.html
sqlite3 /srv/words.sqlite "CREATE TABLE words (word text); INSERT INTO words VALUES ('served by apache2'), ('and php');"`,
    application: ['/usr/sbin/apache2'],
    port: 80,
    request: httpGet('/', 'served by apache2')
  },
  {
    name: 'libreoffice',
    packages: ['libreoffice-writer-nogui', 'fonts-liberation'],
    size: '3G',
    memory: '1GiB',
    files: {
      '/srv/report.fodt': document,
      '/usr/local/bin/report': report,
      '/etc/systemd/system/report.service': unit('The report', ['Type=oneshot', 'ExecStart=/usr/local/bin/report'])
    },
    setup: 'chmod 755 /usr/local/bin/report; systemctl enable report.service',
    application: ['/usr/bin/soffice', '/srv/report.fodt'],
    request: consoleSays(/the report has \d{4,} bytes/)
  },
  {
    name: 'redis',
    heldOut: true,
    packages: ['redis-server'],
    setup: `
sed -i 's/^bind .*/bind 0.0.0.0/; s/^protected-mode yes/protected-mode no/' /etc/redis/redis.conf
cd /var/lib/redis
su redis -s /bin/sh -c 'redis-server --dir /var/lib/redis --daemonize yes'
until redis-cli ping; do sleep 0.1; done
seq 1 20000 | sed 's/.*/SET key:& "the value of &"/' | redis-cli > /dev/null
redis-cli set word 'served by redis'
redis-cli save
redis-cli shutdown nosave`,
    application: ['/usr/bin/redis-server'],
    port: 6379,
    request: redisGet('word', 'served by redis')
  },
  {
    name: 'dovecot',
    heldOut: true,
    packages: ['dovecot-imapd'],
    files: { '/etc/dovecot/local.conf': 'disable_plaintext_auth = no\n', '/var/mail/reader': mail },
    setup: `
useradd -m -s /bin/sh reader
echo reader:letters | chpasswd
chown reader:mail /var/mail/reader
chmod 660 /var/mail/reader`,
    application: ['/usr/sbin/dovecot'],
    port: 143,
    request: imapInbox('reader', 'letters', 5)
  },
  {
    name: 'node',
    heldOut: true,
    packages: ['nodejs', 'node-express'],
    files: {
      '/srv/app/server.js': express,
      '/etc/systemd/system/app.service': unit('The application', ['User=www-data', 'WorkingDirectory=/srv/app', 'ExecStart=/usr/bin/node /srv/app/server.js'])
    },
    setup: 'systemctl enable app.service',
    application: ['/usr/bin/node', '/srv/app'],
    port: 8000,
    request: httpGet('/', 'served by express')
  },
  {
    name: 'cgit',
    heldOut: true,
    packages: ['cgit', 'git', 'lighttpd'],
    files: {
      '/etc/cgitrc': 'css=/cgit-css/cgit.css\nscan-path=/srv/git\n',
      '/etc/lighttpd/conf-enabled/50-cgit.conf': `server.modules += ( "mod_cgi" )
alias.url += ( "/cgit-css/" => "/usr/share/cgit/", "/cgit" => "/usr/lib/cgit/cgit.cgi" )
$HTTP["url"] =~ "^/cgit(/|$)" { cgi.assign = ( "cgit.cgi" => "" ) }
`
    },
    setup: `
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
git init -q --bare -b main /srv/git/demo.git
git init -q -b main /tmp/work
cd /tmp/work
for n in $(seq 1 20); do seq 1 $((n * 50)) > file$n; git add .; git commit -q -m "change number $n"; done
git push -q /srv/git/demo.git main
cd /
rm -rf /tmp/work
chown -R www-data:www-data /srv/git`,
    application: ['/usr/sbin/lighttpd', '/usr/lib/cgit/cgit.cgi', '/srv/git'],
    port: 80,
    request: httpGet('/cgit/demo.git/log/', 'change number 20')
  },
  {
    name: 'mariadb',
    heldOut: true,
    packages: ['mariadb-server'],
    files: { '/etc/mysql/mariadb.conf.d/99-open.cnf': '[mysqld]\nbind-address = 0.0.0.0\n' },
    setup: `
install -d -o mysql -g mysql /run/mysqld
mariadbd --user=mysql --skip-networking &
until mariadb-admin ping; do sleep 0.2; done
mariadb <<'END'
CREATE DATABASE bench;
USE bench;
CREATE TABLE bench.words (id INT AUTO_INCREMENT PRIMARY KEY, word VARCHAR(100), KEY (word));
INSERT INTO bench.words (word) SELECT CONCAT('word ', seq) FROM seq_1_to_20000;
INSERT INTO bench.words (word) VALUES ('served by mariadb');
CREATE USER reader@'%' IDENTIFIED BY '';
GRANT SELECT ON bench.* TO reader@'%';
END
mariadb-admin shutdown
wait`,
    application: ['/usr/sbin/mariadbd'],
    port: 3306,
    request: mysqlQuery('reader', "SELECT word FROM bench.words WHERE word LIKE 'served%'", 'served by mariadb')
  },
  {
    name: 'prometheus',
    heldOut: true,
    packages: ['prometheus'],
    application: ['/usr/bin/prometheus'],
    port: 9090,
    request: httpGet('/api/v1/query?query=vector(4711)', '"4711"')
  }
]

/** All of them, with what is common. */
export const recipes = images.map(image => ({ heldOut: false, size: '2G', memory: '512MiB', files: {}, setup: '', ...image }))
