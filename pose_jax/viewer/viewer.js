// The viewer of a scene of people; the data is in the page, see pose_jax/viewer/__init__.py.
(() => {
'use strict';
const data = JSON.parse(document.getElementById('scene').textContent);
const $ = (id) => document.getElementById(id);
const MISSING = -32768;
const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];

// ---- data -----------------------------------------------------------------------------------
function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out.buffer;
}

// Places: 16-bit integers, tenths of a millimetre, around a centre of every frame in metres.
function places(packed) {
  if (!packed) return null;
  const centres = new Float32Array(bytes(packed.centres));
  const offsets = new Int16Array(bytes(packed.offsets));
  const joints = packed.joints, frames = centres.length / 3;
  return {
    joints, frames,
    get(frame, joint, out) {
      if (frame >= frames) return false;
      const at = (frame * joints + joint) * 3;
      if (offsets[at] === MISSING) return false;
      out.set(centres[frame * 3] + offsets[at] * 1e-4, centres[frame * 3 + 1] + offsets[at + 1] * 1e-4,
        centres[frame * 3 + 2] + offsets[at + 2] * 1e-4);
      return true;
    },
  };
}

const people = data.people.map((one, index) => ({
  name: one.name, index, visible: true,
  poses: places(one.poses), truth: places(one.truth),
  errors: one.errors ? new Uint16Array(bytes(one.errors)) : null,
  keypoints: one.keypoints ? new Int16Array(bytes(one.keypoints)) : null,
  confidence: one.confidence ? new Uint8Array(bytes(one.confidence)) : null,
}));
const joints = data.layout.joints.length;
const centres = new Float32Array(bytes(data.centres));
const hasTruth = people.some((one) => one.truth);

function errorOf(person, frame, joint) {
  const value = person.errors && frame * joints + joint < person.errors.length
    ? person.errors[frame * joints + joint] : 65535;
  return value === 65535 ? NaN : value / 10;
}

function meanError(person, frame) {
  let sum = 0, count = 0;
  for (let j = 0; j < joints; j++) {
    const error = errorOf(person, frame, j);
    if (!Number.isNaN(error)) { sum += error; count++; }
  }
  return count ? sum / count : NaN;
}

function readable(joint) {
  const words = joint.replaceAll('_', ' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// ---- state ----------------------------------------------------------------------------------
const state = {
  frame: 0, time: 0, playing: false, speed: 1, truth: hasTruth, errors: false, keypoints: true,
  film: true, follow: true, hover: null, dirty: true,
};
const media = matchMedia('(prefers-color-scheme: dark)');
const root = document.documentElement;
if (root.dataset.theme === 'auto') root.dataset.theme = media.matches ? 'dark' : 'light';
let colours = data.colours[root.dataset.theme];

// ---- the world ------------------------------------------------------------------------------
const canvas = $('canvas');
let renderer;
try {
  renderer = new THREE.WebGLRenderer({ canvas, antialias: true, preserveDrawingBuffer: true });
} catch (error) {
  $('names').textContent = '';
  const sorry = document.createElement('p');
  sorry.id = 'note';
  sorry.textContent = 'This browser shows no 3D (WebGL is off).';
  $('world').append(sorry);
  return;
}
renderer.shadowMap.enabled = true;
renderer.shadowMap.type = THREE.PCFShadowMap;
const world = new THREE.Scene();
const camera = new THREE.PerspectiveCamera(32, 1, 0.05, 200);
camera.up.set(0, 0, 1);
const controls = new THREE.OrbitControls(camera, canvas);
controls.enableDamping = true;
controls.dampingFactor = 0.12;
controls.maxPolarAngle = Math.PI * 0.53;
controls.minDistance = 0.4;
controls.maxDistance = 60;
controls.addEventListener('change', () => { state.dirty = true; });

world.add(new THREE.HemisphereLight(0xffffff, 0xc8ccd4, 2.7));
const sun = new THREE.DirectionalLight(0xffffff, 1.3);
sun.castShadow = true;
sun.shadow.mapSize.set(2048, 2048);
sun.shadow.radius = 4;
sun.shadow.bias = -0.0005;
world.add(sun, sun.target);

const floor = new THREE.Mesh(new THREE.PlaneGeometry(80, 80), new THREE.ShadowMaterial({ opacity: 0.16 }));
floor.receiveShadow = true;
floor.position.z = -0.002;
world.add(floor);
const grid = (() => {
  const corners = [], half = 14;
  for (let i = -2 * half; i <= 2 * half; i++) {
    for (let k = -half; k < half; k++) {
      corners.push(i / 2, k, 0, i / 2, k + 1, 0, k, i / 2, 0, k + 1, i / 2, 0);
    }
  }
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute('position', new THREE.Float32BufferAttribute(corners, 3));
  return new THREE.LineSegments(geometry, new THREE.LineBasicMaterial());
})();
world.add(grid);

const ball = new THREE.SphereGeometry(1, 24, 16);
const rod = new THREE.CylinderGeometry(1, 1, 1, 16);
const UP = new THREE.Vector3(0, 1, 0);

function figure(layout, slim, ghost) {
  const make = (geometry, count) => {
    const material = new THREE.MeshLambertMaterial(
      ghost ? { transparent: true, opacity: 0.62, fog: false } : { fog: false });
    const mesh = new THREE.InstancedMesh(geometry, material, Math.max(count, 1));
    mesh.count = count;
    mesh.frustumCulled = false;
    mesh.castShadow = !ghost;
    world.add(mesh);
    return mesh;
  };
  return { layout, slim, balls: make(ball, layout.joints.length), rods: make(rod, layout.bones.length) };
}
for (const person of people) {
  person.figure = figure(data.layout, 1, false);
  person.ghost = person.truth ? figure(data.truth_layout, 0.62, true) : null;
}

const spots = Array.from({ length: 256 }, () => new THREE.Vector3());
const matrix = new THREE.Matrix4(), turn = new THREE.Quaternion(), middle = new THREE.Vector3(),
  along = new THREE.Vector3(), size = new THREE.Vector3(), still = new THREE.Quaternion(),
  paint = new THREE.Color(), NOWHERE = new THREE.Matrix4().makeScale(0, 0, 0);

function pose(figure, poses, frame, visible, jointColour, boneColour, hover) {
  const { layout, balls, rods, slim } = figure;
  balls.visible = rods.visible = visible;
  if (!visible) return;
  const known = [];
  for (let j = 0; j < layout.joints.length; j++) {
    known[j] = poses.get(frame, j, spots[j]);
    if (known[j]) {
      size.setScalar(0.026 * slim * (j === hover ? 1.6 : 1));
      balls.setMatrixAt(j, matrix.compose(spots[j], still, size));
    } else balls.setMatrixAt(j, NOWHERE);
    balls.setColorAt(j, paint.set(jointColour(j)));
  }
  layout.bones.forEach(([a, b], i) => {
    if (known[a] && known[b]) {
      along.subVectors(spots[a], spots[b]);
      const length = Math.max(along.length(), 1e-6);
      turn.setFromUnitVectors(UP, along.divideScalar(length));
      middle.addVectors(spots[a], spots[b]).multiplyScalar(0.5);
      size.set(0.0175 * slim, length, 0.0175 * slim);
      rods.setMatrixAt(i, matrix.compose(middle, turn, size));
    } else rods.setMatrixAt(i, NOWHERE);
    rods.setColorAt(i, paint.set(boneColour(a, b)));
  });
  for (const mesh of [balls, rods]) {
    mesh.instanceMatrix.needsUpdate = true;
    if (mesh.instanceColor) mesh.instanceColor.needsUpdate = true;
  }
}

function sideColour(layout, person, ...ends) {
  const sides = new Set(ends.map((j) => layout.sides[j]).filter((side) => side !== 'middle'));
  if (sides.size === 1) return colours[[...sides][0]];
  return personColour(person);
}

function personColour(person) {
  return colours.people[person.index % colours.people.length];
}

function errorColour(error) {
  if (Number.isNaN(error)) return colours.truth;
  const stops = data.error_colours;
  const at = Math.min(Math.max(error / data.largest_error, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2), share = at - low;
  const part = (k) => Math.round(stops[low][k] + share * (stops[low + 1][k] - stops[low][k]));
  return `rgb(${part(0)},${part(1)},${part(2)})`;
}

function drawPeople() {
  const { frame } = state;
  for (const person of people) {
    const hover = state.hover && state.hover.person === person ? state.hover.joint : -1;
    const byError = state.errors && person.errors;
    pose(person.figure, person.poses, frame, person.visible,
      (j) => byError ? errorColour(errorOf(person, frame, j)) : sideColour(data.layout, person, j),
      (a, b) => byError
        ? errorColour((errorOf(person, frame, a) + errorOf(person, frame, b)) / 2)
        : sideColour(data.layout, person, a, b), hover);
    if (person.ghost) {
      const grey = () => colours.truth;
      pose(person.ghost, person.truth, frame, person.visible && state.truth, grey, grey, -1);
    }
  }
}

// ---- views ----------------------------------------------------------------------------------
const VIEWS = {
  start: [data.azimuth, data.elevation], front: [-90, 4], side: [0, 4], top: [-90, 89.9],
};
let chosen = 'start';

function centre(frame, out) {
  const at = Math.min(frame, centres.length / 3 - 1) * 3;
  return out.set(centres[at], centres[at + 1], centres[at + 2]);
}

// As far away as it takes to see everybody, whom the eye may follow.
function lookFrom(name) {
  const [azimuth, elevation] = VIEWS[name].map((value) => value * Math.PI / 180);
  const back = new THREE.Vector3(Math.cos(elevation) * Math.cos(azimuth),
    Math.cos(elevation) * Math.sin(azimuth), Math.sin(elevation));
  const right = new THREE.Vector3(-Math.sin(azimuth), Math.cos(azimuth), 0);
  const up = new THREE.Vector3().crossVectors(back, right);
  const high = Math.tan(camera.fov * Math.PI / 360), wide = high * camera.aspect;
  const target = new THREE.Vector3(), spot = new THREE.Vector3(), needed = [];
  const step = Math.max(1, Math.floor(data.frames / 150));
  for (let frame = 0; frame < data.frames; frame += step) {
    centre(state.follow ? frame : state.frame, target);
    for (const person of people) {
      for (let j = 0; j < joints; j++) {
        if (!person.poses.get(frame, j, spot)) continue;
        spot.sub(target);
        needed.push(spot.dot(back) + Math.max(Math.abs(spot.dot(right)) / (0.86 * wide),
          Math.abs(spot.dot(up)) / (0.76 * high)));
      }
    }
  }
  needed.sort((a, b) => a - b);
  const distance = Math.max(2, needed.length ? needed[Math.floor(0.99 * (needed.length - 1))] : 4);
  centre(state.frame, controls.target);
  camera.position.copy(controls.target).addScaledVector(back, distance);
  controls.update();
  followed.copy(controls.target);
  chosen = name;
  state.dirty = true;
}

const followed = new THREE.Vector3(), moved = new THREE.Vector3(), now = new THREE.Vector3();
function follow() {
  centre(state.frame, now);
  if (state.follow) {
    moved.subVectors(now, followed);
    camera.position.add(moved);
    controls.target.add(moved);
  }
  followed.copy(now);
  sun.target.position.copy(now);
  sun.position.copy(now).add(moved.set(1.5, -2, 7));
  const reach = 7, eye = sun.shadow.camera;
  eye.left = eye.bottom = -reach; eye.right = eye.top = reach; eye.far = 30;
  eye.updateProjectionMatrix();
  grid.position.set(Math.round(now.x), Math.round(now.y), 0);
  floor.position.x = now.x; floor.position.y = now.y;
}

// ---- words over the world -------------------------------------------------------------------
const onScreen = new THREE.Vector3();
function toScreen(spot, out) {
  onScreen.copy(spot).project(camera);
  if (onScreen.z > 1) return false;
  out.x = (onScreen.x + 1) / 2 * canvas.clientWidth;
  out.y = (1 - onScreen.y) / 2 * canvas.clientHeight;
  return true;
}

for (const person of people) {
  person.tag = document.createElement('span');
  person.tag.textContent = person.name;
  $('names').append(person.tag);
}

function placeNames() {
  const spot = new THREE.Vector3(), best = new THREE.Vector3(), at = {};
  for (const person of people) {
    let found = false;
    for (let j = 0; j < joints; j++) {
      if (person.poses.get(state.frame, j, spot) && (!found || spot.z > best.z)) {
        best.copy(spot);
        found = true;
      }
    }
    best.z += 0.13;
    const shown = people.length > 1 && person.visible && found && toScreen(best, at);
    person.tag.hidden = !shown;
    if (!shown) continue;
    person.tag.style.color = personColour(person);
    person.tag.style.transform = `translate(${at.x.toFixed(1)}px, ${at.y.toFixed(1)}px) translate(-50%, -100%)`;
  }
}

let pointer = null;
function findHover() {
  let best = null, nearest = 16;
  if (pointer) {
    const spot = new THREE.Vector3(), at = {};
    for (const person of people.filter((one) => one.visible)) {
      for (let j = 0; j < joints; j++) {
        if (!person.poses.get(state.frame, j, spot) || !toScreen(spot, at)) continue;
        const away = Math.hypot(at.x - pointer.x, at.y - pointer.y);
        if (away < nearest) {
          nearest = away;
          best = { person, joint: j, x: at.x, y: at.y, spot: spot.clone() };
        }
      }
    }
  }
  state.hover = best;
  const tip = $('tip');
  tip.hidden = !best;
  if (!best) return;
  const name = document.createElement('b');
  name.textContent = readable(data.layout.joints[best.joint]);
  const error = errorOf(best.person, state.frame, best.joint);
  const parts = people.length > 1 ? [best.person.name] : [];
  parts.push(Number.isNaN(error) ? `${best.spot.z.toFixed(2)} m high` : `${error.toFixed(0)} mm off`);
  tip.replaceChildren(name, parts.join(' · '));
  const left = Math.min(best.x + 14, canvas.clientWidth - tip.offsetWidth - 6);
  tip.style.transform = `translate(${left}px, ${Math.max(best.y - tip.offsetHeight - 10, 4)}px)`;
}
canvas.addEventListener('pointermove', (event) => {
  pointer = { x: event.offsetX, y: event.offsetY };
  state.dirty = true;
});
canvas.addEventListener('pointerleave', () => { pointer = null; state.dirty = true; });

// ---- the film -------------------------------------------------------------------------------
const video = $('video'), screen = $('screen');
const film = { works: Boolean(data.video), wanted: null };
const hasFilm = Boolean(data.video || data.video_note);
function placeFilm() {
  $('film').hidden = !(hasFilm && state.film);
  $('stage').classList.toggle('film', !$('film').hidden);
}
if (hasFilm) {
  $('stage').classList.toggle('upright', Boolean(data.size && data.size[0] < data.size[1]));
  placeFilm();
  if (data.size) $('film').style.setProperty('--ratio', data.size[0] / data.size[1]);
}
function noFilm(why) {
  film.works = false;
  screen.hidden = true;
  $('note').hidden = false;
  $('note').textContent = why;
}
if (data.video) {
  video.addEventListener('error', () => noFilm('This browser cannot play the embedded video.'));
  video.addEventListener('seeked', () => {
    if (film.wanted !== null) { const time = film.wanted; film.wanted = null; seek(time); }
    state.dirty = true;
  });
  video.addEventListener('loadeddata', () => { state.dirty = true; });
  video.src = data.video;
} else if (data.video_note) noFilm(data.video_note);

function seek(time) {
  if (!film.works) return;
  if (video.seeking) film.wanted = time;
  else video.currentTime = time;
}

// Both on one canvas: keypoints cannot be out of place.
function drawFilm() {
  if ($('film').hidden || screen.hidden) return;
  const density = devicePixelRatio || 1, wide = screen.clientWidth, high = screen.clientHeight;
  fit(screen, wide, high, density);
  const pen = screen.getContext('2d');
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.clearRect(0, 0, wide, high);
  if (video.readyState >= 2) {
    const zoom = Math.min(wide / video.videoWidth, high / video.videoHeight);
    const [w, h] = [video.videoWidth * zoom, video.videoHeight * zoom];
    pen.drawImage(video, (wide - w) / 2, (high - h) / 2, w, h);
  }
  const layout = data.keypoint_layout;
  if (!layout || !data.size || !state.keypoints) return;
  const scale = Math.min(wide / data.size[0], high / data.size[1]);
  const left = (wide - scale * data.size[0]) / 2, top = (high - scale * data.size[1]) / 2;
  const thick = Math.max(1.6, Math.min(wide, high) / 150);
  pen.lineCap = 'round';
  const painted = data.colours.dark;
  const count = layout.joints.length;
  for (const person of people) {
    if (!person.keypoints || !person.visible) continue;
    const at = (j) => {
      const k = (state.frame * count + j) * 2;
      if (!(k < person.keypoints.length) || person.keypoints[k] === MISSING) return null;
      return [left + person.keypoints[k] * data.keypoint_unit * scale,
        top + person.keypoints[k + 1] * data.keypoint_unit * scale];
    };
    const sure = (j) => !person.confidence || person.confidence[state.frame * count + j] >= 77;
    const colour = (...ends) => {
      const sides = new Set(ends.map((j) => layout.sides[j]).filter((side) => side !== 'middle'));
      return sides.size === 1 ? painted[[...sides][0]] : painted.people[person.index % painted.people.length];
    };
    for (const [a, b] of layout.bones) {
      const from = at(a), to = at(b);
      if (!from || !to) continue;
      for (const [width, style] of [[thick + 1.6, 'rgba(15,18,24,.75)'], [thick, colour(a, b)]]) {
        pen.lineWidth = sure(a) && sure(b) ? width : width / 2.5;
        pen.strokeStyle = style;
        pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.stroke();
      }
    }
    for (let j = 0; j < count; j++) {
      const spot = at(j);
      if (!spot || !sure(j)) continue;
      pen.beginPath(); pen.arc(...spot, thick * 0.95, 0, 7);
      pen.fillStyle = colour(j); pen.fill();
    }
  }
}

function fit(target, wide, high, density) {
  const w = Math.round(wide * density), h = Math.round(high * density);
  if (target.width !== w || target.height !== h) { target.width = w; target.height = h; }
}

// ---- error over time ------------------------------------------------------------------------
const curve = $('curve'), LEFT = 52, RIGHT = 14;
let curves = null;
if (hasTruth) {
  $('plot').hidden = false;
  $('stage').classList.add('plot');
  curves = people.map((person) => Array.from({ length: data.frames }, (_, i) => meanError(person, i)));
}
const known = curves ? curves.flat().filter((value) => !Number.isNaN(value)) : [];
const ceiling = (() => {
  const largest = known.reduce((a, b) => Math.max(a, b), 1);
  const step = [5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000].find((one) => one * 2 >= largest) || 10000;
  return { step, top: Math.ceil(largest / step) * step };
})();

function drawCurve() {
  if (!curves) return;
  const density = devicePixelRatio || 1, wide = curve.clientWidth, high = curve.clientHeight;
  fit(curve, wide, high, density);
  const pen = curve.getContext('2d'), style = getComputedStyle(root);
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.clearRect(0, 0, wide, high);
  const top = 24, bottom = high - 10;
  const x = (frame) => LEFT + (wide - LEFT - RIGHT) * frame / Math.max(data.frames - 1, 1);
  const y = (error) => bottom - (bottom - top) * error / ceiling.top;
  pen.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
  pen.textAlign = 'right';
  pen.textBaseline = 'middle';
  for (let mark = 0; mark <= ceiling.top + 1e-6; mark += ceiling.step) {
    pen.strokeStyle = style.getPropertyValue('--line');
    pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(LEFT, Math.round(y(mark)) + 0.5); pen.lineTo(wide - RIGHT, Math.round(y(mark)) + 0.5); pen.stroke();
    pen.fillStyle = style.getPropertyValue('--quiet');
    pen.fillText(String(mark), LEFT - 8, y(mark));
  }
  pen.textAlign = 'left';
  const shown = people.filter((one) => one.visible && one.errors);
  pen.fillText('Mean error, mm', 12, 12);
  let at = wide - RIGHT;
  pen.textAlign = 'right';
  for (const person of [...shown].reverse()) {
    const value = curves[person.index][state.frame];
    const words = `${people.length > 1 ? `${person.name} ` : ''}${Number.isNaN(value) ? '–' : value.toFixed(1)}`;
    pen.fillStyle = personColour(person);
    pen.fillText(words, at, 12);
    at -= pen.measureText(words).width + 16;
  }
  const stride = Math.max(1, Math.floor(data.frames / (2 * Math.max(wide, 1))));
  for (const person of shown) {
    pen.strokeStyle = personColour(person);
    pen.lineWidth = 1.6;
    pen.lineJoin = 'round';
    pen.beginPath();
    let open = false;
    for (let i = 0; i < data.frames; i += stride) {
      const value = curves[person.index][i];
      if (Number.isNaN(value)) { open = false; continue; }
      if (open) pen.lineTo(x(i), y(value)); else pen.moveTo(x(i), y(value));
      open = true;
    }
    pen.stroke();
  }
  pen.strokeStyle = style.getPropertyValue('--text');
  pen.lineWidth = 1;
  pen.beginPath(); pen.moveTo(Math.round(x(state.frame)) + 0.5, top - 4); pen.lineTo(Math.round(x(state.frame)) + 0.5, bottom); pen.stroke();
}
let dragging = false;
function toFrame(event) {
  const share = (event.offsetX - LEFT) / Math.max(curve.clientWidth - LEFT - RIGHT, 1);
  go(Math.round(Math.min(Math.max(share, 0), 1) * (data.frames - 1)));
}
curve.addEventListener('pointerdown', (event) => { dragging = true; curve.setPointerCapture(event.pointerId); toFrame(event); });
curve.addEventListener('pointermove', (event) => { if (dragging) toFrame(event); });
curve.addEventListener('pointerup', () => { dragging = false; });

// ---- time -----------------------------------------------------------------------------------
const scrub = $('scrub');
scrub.max = data.frames - 1;

function clock(time) {
  const minutes = Math.floor(time / 60);
  return `${minutes}:${(time - 60 * minutes).toFixed(2).padStart(5, '0')}`;
}

function show(frame) {
  state.frame = Math.min(Math.max(frame, 0), data.frames - 1);
  scrub.value = state.frame;
  const time = document.createElement('b');
  time.textContent = clock(state.frame / data.fps);
  $('time').replaceChildren(time, ` / ${clock((data.frames - 1) / data.fps)} · frame ${state.frame}`);
  state.dirty = true;
}

// Goes to a frame at once; the film shows the middle of that frame's time.
function go(frame) {
  show(frame);
  state.time = state.frame / data.fps;
  seek((state.frame + 0.5) / data.fps);
}

function play(on) {
  state.playing = on;
  if (on && state.frame >= data.frames - 1) go(0);
  state.time = state.frame / data.fps;
  $('sign').setAttribute('d', on ? 'M6 4.5h4.2v15H6zM13.8 4.5H18v15h-4.2z' : 'M7 4.5v15l12.5-7.5z');
  $('play').setAttribute('aria-label', on ? 'Pause' : 'Play');
  if (!film.works) return;
  video.playbackRate = state.speed;
  if (on) video.play().catch(() => {});
  else { video.pause(); go(state.frame); }
}

let before = performance.now();
function tick(time) {
  const passed = Math.min((time - before) / 1000, 0.25);
  before = time;
  if (state.playing) {
    // The film, where there is one, is the clock: nothing drifts apart.
    const filmRuns = film.works && !video.paused && video.readyState >= 2;
    if (filmRuns) state.time = video.currentTime;
    else if (!film.works || video.ended || video.paused) state.time += passed * state.speed;
    const frame = Math.floor(state.time * data.fps + 1e-3);
    if (frame >= data.frames || (film.works && video.ended)) {
      go(0);
      if (film.works) video.play().catch(() => {});
    } else if (frame !== state.frame) show(frame);
  }
  controls.update();
  if (state.dirty) draw();
  requestAnimationFrame(tick);
}

function draw() {
  state.dirty = false;
  follow();
  camera.updateMatrixWorld();
  const distance = camera.position.distanceTo(controls.target);
  world.fog.near = distance * 0.9;
  world.fog.far = distance * 1.6 + 9;
  findHover();
  drawPeople();
  renderer.render(world, camera);
  placeNames();
  drawFilm();
  drawCurve();
}

// ---- controls -------------------------------------------------------------------------------
function choose(id, key, after) {
  const button = $(id);
  const set = () => button.setAttribute('aria-pressed', state[key]);
  button.addEventListener('click', () => {
    state[key] = !state[key];
    set();
    if (after) after();
    state.dirty = true;
  });
  set();
  return button;
}
choose('show-truth', 'truth', legend).hidden = !hasTruth;
choose('show-errors', 'errors', legend).hidden = !hasTruth;
choose('show-film', 'film', placeFilm).hidden = !hasFilm;
choose('show-keypoints', 'keypoints').hidden = !(data.keypoint_layout && data.video);
choose('follow', 'follow');

function legend() {
  const entries = [['Left', colours.left], ['Right', colours.right]];
  if (hasTruth && state.truth) entries.push(['Ground truth', colours.truth]);
  $('key').replaceChildren(...entries.map(([text, colour]) => {
    const entry = document.createElement('span'), dot = document.createElement('i');
    dot.style.background = colour;
    entry.append(dot, text);
    return entry;
  }));
  $('key').hidden = state.errors;
  $('bar').hidden = !state.errors;
  $('ramp').style.background = `linear-gradient(90deg, ${data.error_colours.map((c) => `rgb(${c.join(',')})`).join(',')})`;
  $('ticks').replaceChildren(...[0, 0.5, 1].map((share) => {
    const mark = document.createElement('span');
    mark.textContent = `${Math.round(share * data.largest_error)}${share === 1 ? ' mm' : ''}`;
    return mark;
  }));
}

function paintAll() {
  colours = data.colours[root.dataset.theme];
  renderer.setClearColor(colours.page);
  world.fog = new THREE.Fog(colours.page);
  grid.material.color.set(colours.grid);
  floor.material.opacity = root.dataset.theme === 'dark' ? 0.45 : 0.16;
  for (const person of people) person.dot.style.background = personColour(person);
  legend();
  state.dirty = true;
}

for (const person of people) {
  const chip = document.createElement('button');
  chip.className = 'chip';
  chip.setAttribute('aria-pressed', 'true');
  chip.title = `Show or hide (${person.index + 1})`;
  person.dot = document.createElement('i');
  chip.append(person.dot, person.name);
  chip.addEventListener('click', () => {
    person.visible = !person.visible;
    chip.setAttribute('aria-pressed', person.visible);
    state.dirty = true;
  });
  person.chip = chip;
  $('people').append(chip);
}
$('title').textContent = data.title;
$('title').title = data.title;
for (const speed of SPEEDS) {
  const option = document.createElement('option');
  option.value = speed;
  option.textContent = `${speed}×`;
  option.selected = speed === 1;
  $('speed').append(option);
}
function setSpeed(speed) {
  state.speed = speed;
  $('speed').value = speed;
  if (film.works) video.playbackRate = speed;
}
$('speed').addEventListener('change', () => setSpeed(Number($('speed').value)));
$('play').addEventListener('click', () => play(!state.playing));
scrub.addEventListener('input', () => go(Number(scrub.value)));
for (const button of $('views').children) button.addEventListener('click', () => lookFrom(button.dataset.view));
function turnLights() {
  root.dataset.theme = root.dataset.theme === 'dark' ? 'light' : 'dark';
  paintAll();
}
$('theme').addEventListener('click', turnLights);
$('help').addEventListener('click', () => $('keys').showModal());
const KEYS = [
  ['Space', 'play or pause'], ['← →', 'a frame back or on; ten with Shift'], ['Home End', 'first or last frame'],
  ['- +', 'slower or faster'], ['1 … 9', 'show or hide a person'], ['T', 'measured poses'], ['E', 'colours of errors'],
  ['V', 'the video'], ['K', 'keypoints on the video'], ['F', 'follow the people'], ['R', 'the first view'], ['D', 'light or dark'], ['?', 'these keys'],
];
$('keys').querySelector('dl').append(...KEYS.flatMap(([key, what]) => {
  const term = document.createElement('dt'), text = document.createElement('dd');
  term.textContent = key;
  text.textContent = what;
  return [term, text];
}));
function faster(steps) {
  const at = SPEEDS.indexOf(state.speed) + steps;
  setSpeed(SPEEDS[Math.min(Math.max(at, 0), SPEEDS.length - 1)]);
}
const press = (id) => { if (!$(id).hidden) $(id).click(); };
const ACTIONS = {
  ' ': () => play(!state.playing), Home: () => go(0), End: () => go(data.frames - 1),
  '+': () => faster(1), '=': () => faster(1), '-': () => faster(-1), t: () => press('show-truth'),
  e: () => press('show-errors'), v: () => press('show-film'), k: () => press('show-keypoints'), f: () => press('follow'),
  r: () => lookFrom('start'), d: turnLights, '?': () => $('keys').showModal(),
};
window.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $('keys').open) return;
  const step = (event.shiftKey ? 10 : 1) * { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const person = people[Number(event.key) - 1];
  const action = ACTIONS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (step) go(state.frame + step);
  else if (person) person.chip.click();
  else if (action) action();
  else return;
  event.preventDefault();
});

let fitted = false;
new ResizeObserver(() => {
  const wide = $('world').clientWidth, high = $('world').clientHeight;
  if (!wide || !high) return;
  renderer.setPixelRatio(Math.min(devicePixelRatio || 1, 2));
  renderer.setSize(wide, high, false);
  camera.aspect = wide / high;
  camera.updateProjectionMatrix();
  if (!fitted) { fitted = true; lookFrom(chosen); }
  state.dirty = true;
}).observe($('world'));
new ResizeObserver(() => { state.dirty = true; }).observe($('app'));
paintAll();
go(0);
requestAnimationFrame(tick);
})();
