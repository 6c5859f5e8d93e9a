// The mask painter: shapes in pixels of the clip, [[object, kind, radius, [x, y, ...]], ...], as JSON in props.value.
const canvas = document.createElement('canvas'), context = canvas.getContext('2d');
const overlay = document.createElement('canvas'), ink = overlay.getContext('2d');
const picture = new Image();
let rgb = [], shapes = [], drawing = null, object = 1, tool = 'brush', size = 6;

function attach() {  // the template is rendered anew whenever a prop changes
  const root = element.querySelector('.painter');
  if (!root) return;
  rgb = [...root.querySelectorAll('.object')].map(b => b.style.backgroundColor);
  root.querySelector('.empty').hidden = !!props.picture;
  root.querySelector('.tools').hidden = !props.picture;
  if (props.picture && canvas.parentNode !== root) root.appendChild(canvas);
  if (!props.picture) canvas.remove();
  const pressed = (selector, test) => root.querySelectorAll(selector).forEach(b => {
    b.setAttribute('aria-pressed', test(b)); });
  root.querySelectorAll('button').forEach(b => b.onclick = () => {
    if (b.dataset.object) { object = +b.dataset.object; if (tool === 'eraser') tool = 'brush'; }
    else if (b.dataset.tool) tool = b.dataset.tool;
    else { shapes = b.dataset.action === 'undo' ? shapes.slice(0, -1) : []; send(); }
    attach(); paint();
  });
  const range = root.querySelector('input');
  range.value = size; range.oninput = () => { size = +range.value; };
  pressed('.object', b => +b.dataset.object === object && tool !== 'eraser');
  pressed('[data-tool]', b => b.dataset.tool === tool);
}

function draw(shape) {
  const [id, kind, radius, p] = shape;
  ink.globalCompositeOperation = id ? 'source-over' : 'destination-out';
  ink.fillStyle = ink.strokeStyle = rgb[Math.max(id - 1, 0)];
  if (kind === 'box') return ink.fillRect(p[0], p[1], p[2] - p[0], p[3] - p[1]);
  ink.lineWidth = 2 * radius; ink.lineCap = ink.lineJoin = 'round';
  ink.beginPath(); ink.moveTo(p[0], p[1]);
  for (let i = 0; i < p.length; i += 2) ink.lineTo(p[i], p[i + 1]);
  ink.stroke();
}

function paint() {
  if (!picture.width) return;
  ink.clearRect(0, 0, overlay.width, overlay.height);
  shapes.concat(drawing ? [drawing] : []).forEach(draw);
  context.drawImage(picture, 0, 0);
  context.globalAlpha = 0.6; context.drawImage(overlay, 0, 0); context.globalAlpha = 1;
}

function send() { props.value = shapes.length ? JSON.stringify(shapes) : ''; trigger('input'); }

function place(event) {
  const box = canvas.getBoundingClientRect(), tenth = v => Math.round(10 * v) / 10;
  return [tenth((event.clientX - box.left) * canvas.width / box.width),
          tenth((event.clientY - box.top) * canvas.height / box.height)];
}

canvas.onpointerdown = event => {
  canvas.setPointerCapture(event.pointerId);
  const [x, y] = place(event), radius = size / 100 * Math.min(canvas.width, canvas.height);
  drawing = tool === 'box' ? [object, 'box', 1, [x, y, x, y]]
    : [tool === 'eraser' ? 0 : object, 'brush', Math.round(10 * radius) / 10, [x, y]];
  paint();
};
canvas.onpointermove = event => {
  if (!drawing) return;
  const [x, y] = place(event), p = drawing[3], n = p.length;
  if (drawing[1] === 'box') { p[2] = x; p[3] = y; }
  else if (Math.hypot(x - p[n - 2], y - p[n - 1]) > drawing[2] / 3) p.push(x, y);
  paint();
};
canvas.onpointerup = () => { if (drawing) { shapes.push(drawing); drawing = null; paint(); send(); } };
canvas.onpointercancel = () => { drawing = null; paint(); };

picture.onload = () => {
  canvas.width = overlay.width = picture.width; canvas.height = overlay.height = picture.height;
  paint();
};
function show() {
  attach();
  if (props.picture && picture.src !== props.picture) { shapes = []; picture.src = props.picture; }
}
watch(['picture', 'value'], show);
show();
