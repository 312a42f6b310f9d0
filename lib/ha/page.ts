// The page as one HTML text that needs nothing else, and the policy that lets a browser run only what is in it.
import { pagePolicy } from '../read_only_server.js'
import { script } from './page_script.js'
import { style } from './page_style.js'

/** @internal */
export const contentSecurityPolicy = pagePolicy(script, style, 'data:')

const icon =
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect x="2" y="6" width="18" height="14" rx="3" fill="#2563c9"/>' +
  '<rect x="12" y="12" width="18" height="14" rx="3" fill="#0f8a5f" fill-opacity=".85"/></svg>'

/** @internal */
export const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hypertwin</title>
<link rel="icon" href="data:image/svg+xml,${encodeURIComponent(icon)}">
<style>${style}</style>
</head>
<body>
<main>
<header>${icon}<h1>hypertwin high availability</h1><span class="feed" id="feed">connecting</span></header>
<section id="verdict" data-tone="idle" role="status" aria-live="polite"><p class="say" id="say">Connecting</p><p class="more" id="more"></p></section>
<div class="hosts" id="hosts"></div>
<section id="failover" class="hidden">
<h2>Last failover</h2>
<p class="total" id="total"></p>
<p class="cause" id="cause"></p>
<div class="wide"><svg viewBox="0 0 1000 96" id="picture" role="img" aria-label="The last failover's moments, from the last sign of life on"></svg></div>
<ul class="legend" id="legend"></ul>
</section>
<div class="charts" id="charts"></div>
<section><h2>What happened</h2><ol class="events" id="events"></ol></section>
<noscript>This page draws with JavaScript. The same as data: /state.json, /metrics.</noscript>
</main>
<script>${script}</script>
</body>
</html>
`
