// Ties a timeline to its video: a line moves with it, and a click goes there.
const video = () => document.querySelector('#' + props.video + ' video');

function follow() {
  const head = element.querySelector('.playhead'), bar = element.querySelector('svg'), film = video();
  if (head && bar && film && film.duration) {
    const left = bar.getBoundingClientRect().left - head.parentNode.getBoundingClientRect().left;
    head.style.left = left + film.currentTime / film.duration * bar.getBoundingClientRect().width + 'px';
  }
  requestAnimationFrame(follow);
}
element.addEventListener('click', event => {
  const bar = element.querySelector('svg'), film = video();
  if (!bar || !film || !film.duration) return;
  const box = bar.getBoundingClientRect(), share = (event.clientX - box.left) / box.width;
  if (share >= 0 && share <= 1) { film.pause(); film.currentTime = share * film.duration; }
});
follow();
