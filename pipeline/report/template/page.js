"use strict";
// Without this script every video still plays. With it, the videos of a row stay together, what is out of sight
// rests, and one button stops everything; where less motion is asked for, nothing starts by itself.
const videos = [...document.querySelectorAll("video")];
const button = document.getElementById("playing");
const seen = new Set();
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

function update(video) {
  if (playing && seen.has(video)) video.play().catch(() => {}); // a browser may refuse; the poster stays
  else video.pause();
}

function show() {
  button.textContent = playing ? "Pause" : "Play";
  videos.forEach(update);
}

for (const row of document.querySelectorAll("[data-sync]")) {
  const [lead, ...others] = row.querySelectorAll("video");
  lead?.addEventListener("seeked", () => { // each time it loops
    for (const video of others) {
      const drift = Math.abs(video.currentTime - lead.currentTime);
      if (drift > 0.04 && video.duration - drift > 0.04) video.currentTime = lead.currentTime;
    }
  });
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) seen.add(entry.target);
    else seen.delete(entry.target);
    update(entry.target);
  }
}, { rootMargin: "100px" });
videos.forEach((video) => observer.observe(video));

button.hidden = false;
button.addEventListener("click", () => { playing = !playing; show(); });
show();
